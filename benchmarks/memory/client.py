"""A client in a process of its own: sends prepared requests over one connection and notes the time of each."""

import multiprocessing
import socket
import time
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

PAUSE_S = 0.002
Floats = npt.NDArray[np.float64]


def prepared(bodies: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return HTTP requests to /v1/predict, so that sending one costs the client no more than a system call."""
    requests = []
    for body in map(orjson.dumps, bodies):
        head = ("POST /v1/predict HTTP/1.1", "Host: slimctr", f"Content-Length: {len(body)}", "", "")
        requests.append("\r\n".join(head).encode() + body)
    return requests


class Client:
    """Sends from entering a `with` block on; `stop` ends it and returns its times."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(host, port, requests, theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._ours.recv()
        return self

    def stop(self) -> tuple[Floats, Floats]:
        """Return when each request began (`time.perf_counter` of this machine) and the seconds until its answer."""
        self._ours.send("stop")
        begins, seconds = self._ours.recv()
        return begins, seconds

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


def _run(host: str, port: int, requests: Sequence[bytes], control: Connection) -> None:
    begins, ends = [], []
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        control.send("started")
        while not control.poll():
            begin = time.perf_counter()
            connection.sendall(requests[len(begins) % len(requests)])
            _answer(connection)
            begins.append(begin)
            ends.append(time.perf_counter())
            time.sleep(PAUSE_S)
    control.send((np.array(begins), np.array(ends) - np.array(begins)))


def _answer(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the service answered {head.decode()} {body.decode()}")
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += _more(connection)


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise RuntimeError("the service closed the connection")
    return data
