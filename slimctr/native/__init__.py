"""C kernels and their ctypes signatures: key hashing and vocabulary probe (`keys`), row lookup (`lookup`)."""
