"""The threaded tritonclient, closed completely: it leaves sockets of unread health answers to the garbage collector."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tritonclient.http as triton


@contextmanager
def triton_client(host: str, port: int, **settings: Any) -> Iterator[triton.InferenceServerClient]:
    """Yield a client of `host:port`."""
    client = triton.InferenceServerClient(f"{host}:{port}", **settings)
    try:
        yield client
    finally:
        client.close()
        del client
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
