"""One row at one connection: short turns of requests to each server in succession, so that all meet the same machine.

In cells of a second a virtual machine loses more or less time to its neighbours, which decides the hundredth request.
"""

import gc
import os
import re
import socket
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.bodies import JSON_LENGTH, content_type_of, encode
from benchmarks.serving.servers import Server

REQUESTS = 50
SKIPPED = 5
DISTINCT_BODIES = 64
RESAMPLES = 1000
PERCENTILES = (50, 90, 99)
Cell = tuple[str, str]
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def measure_turns(
    servers: Sequence[Server],
    ids: NDArray[np.int32],
    names: tuple[str, ...],
    turns: int,
    core: int,
    advance: Callable[[], None],
) -> dict[Cell, NDArray[np.float64]]:
    """Return milliseconds (turns, REQUESTS) by server and form; the first SKIPPED requests of a turn only warm it up."""
    connections = {
        (server.config.name, form): _Connection(server, form, ids, names)
        for server in servers
        for form in server.config.paths
    }
    cells = list(connections)
    taken = {cell: np.empty((turns, REQUESTS)) for cell in cells}
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    gc.disable()
    try:
        for turn in range(turns):
            for number in np.random.default_rng(turn).permutation(len(cells)):
                connection = connections[cells[number]]
                for _ in range(SKIPPED):
                    connection.ask()
                taken[cells[number]][turn] = [connection.ask() for _ in range(REQUESTS)]
            advance()
    finally:
        gc.enable()
        os.sched_setaffinity(0, cores)
        for connection in connections.values():
            connection.close()
    return taken


def summary(taken: dict[Cell, NDArray[np.float64]], peers: Sequence[str]) -> list[dict]:
    """Rate and percentiles of every cell, its p99 to that of each peer with the middle 95 % over resampled turns."""
    turns = len(next(iter(taken.values())))
    drawn = np.random.default_rng(0).integers(0, turns, (RESAMPLES, turns))
    resampled = {
        cell: np.array([np.percentile(times[rows], 99) for rows in drawn]) for cell, times in taken.items()
    }
    records = []
    for cell, times in taken.items():
        ratios = {}
        for peer in (other for other in taken if other[0] in peers and other[0] != cell[0]):
            ratio = np.percentile(times, 99) / np.percentile(taken[peer], 99)
            low, high = np.percentile(resampled[cell] / resampled[peer], (2.5, 97.5))
            ratios[peer[0]] = [round(float(value), 3) for value in (ratio, low, high)]
        records.append(
            {
                "server": cell[0],
                "form": cell[1],
                "requests": times.size,
                "requests_per_s": round(1000 / float(times.mean()), 1),
                **{f"p{p}_ms": round(float(np.percentile(times, p)), 3) for p in PERCENTILES},
                "p99_ratios": ratios,
            }
        )
    return records


class _Connection:
    """A connection that is kept, and the requests to send over it."""

    def __init__(self, server: Server, form: str, ids: NDArray[np.int32], names: tuple[str, ...]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = [
            _request(server.config.paths[form], form, *encode(form, ids[row : row + 1], names))
            for row in range(DISTINCT_BODIES)
        ]
        self._next = 0

    def ask(self) -> float:
        """Send the next request; return the milliseconds until its answer is complete."""
        request = self._requests[self._next % DISTINCT_BODIES]
        self._next += 1
        begin = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while not _is_complete(answer):
            answer += self._socket.recv(65536)
        taken = time.perf_counter() - begin
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"an answer is not 200: {answer[:200]!r}")
        return 1000 * taken

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _request(path: str, form: str, body: bytes, json_bytes: int | None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type_of(form)}"]
    lines.append(f"Content-Length: {len(body)}")
    if json_bytes is not None:
        lines.append(f"{JSON_LENGTH}: {json_bytes}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _is_complete(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(found) and length is not None and len(body) >= int(length[1])
