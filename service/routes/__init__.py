"""HTTP routes, each 5 to 30 lines."""
