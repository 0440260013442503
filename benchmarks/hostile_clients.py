"""How long `/livez` takes, and what memory does, while other clients do what no client should: `make bench-hostile`, or

    python -m benchmarks.hostile_clients --store models

Each attack runs in a process of its own, alone and then all together, against `slimctr serve` on a store with a label
`stable`. For each the slowest of 40 probes is printed, each probe on a connection of its own, with the memory of the
service before, halfway and after. Exits with 1 when a probe took more than 100 ms while those three ran together that
the promise names: headers without end, 200 silent connections, 15 MB of lists that hold NaN.
"""

import argparse
import http.client
import multiprocessing
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.memory.service import process_memory, served

Address = tuple[str, int]
Attack = Callable[[Address, threading.Event], None]

PROBES = 40
LIMIT_S = 0.1
SETTLE_S = 2.0


def headers_without_end(address: Address, over: threading.Event) -> None:
    """Send header after header, on a new connection when one is closed."""
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(5000))
    while not over.is_set():
        with suppress(OSError), socket.create_connection(address, 5) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\n")
            while not over.is_set():
                client.sendall(many)


def a_header_without_end(address: Address, over: threading.Event) -> None:
    """Send the value of one header, on a new connection when one is closed."""
    while not over.is_set():
        with suppress(OSError), socket.create_connection(address, 5) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\nX: ")
            while not over.is_set():
                client.sendall(b"x" * 65536)


def silent_connections(address: Address, over: threading.Event) -> None:
    """Hold 200 connections and send nothing."""
    with ExitStack() as stack:
        for _ in range(200):
            with suppress(OSError):
                stack.enter_context(socket.create_connection(address, 5))
        over.wait()


def answers_unread(address: Address, over: threading.Event) -> None:
    """Ask for the largest file, many times, and read nothing."""
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(address, 5))
            with suppress(OSError):
                client.settimeout(0.1)
                client.sendall(b"GET /dashboard/static/plotly.min.js HTTP/1.1\r\nHost: x\r\n\r\n" * 90)
        over.wait()


def lists_of_nan(address: Address, over: threading.Event) -> None:
    """Send 15 MB of values that are none, again and again; each body has to be refused."""
    body = b'{"instances":[' + b'{"tags":[NaN,NaN]},' * (15_000_000 // 19) + b"{}]}"
    while not over.is_set():
        client = http.client.HTTPConnection(*address, timeout=60)
        client.request("POST", "/v1/predict", body)
        with client.getresponse() as response:
            if response.status not in (400, 422):
                raise RuntimeError(f"15 MB of NaN lists were answered with {response.status}")
        client.close()


PROMISED: tuple[Attack, ...] = (headers_without_end, silent_connections, lists_of_nan)
ATTACKS: tuple[Attack, ...] = (*PROMISED, a_header_without_end, answers_unread)


def live_seconds(address: Address) -> float:
    """Return how long a client of its own waited for `/livez`."""
    start = time.monotonic()
    client = http.client.HTTPConnection(*address, timeout=20)
    client.request("GET", "/livez")
    with client.getresponse() as response:
        if response.status != 200:
            raise RuntimeError(f"/livez answered {response.status}")
    client.close()
    return time.monotonic() - start


@contextmanager
def attacked(address: Address, attacks: Sequence[Attack]) -> Iterator[None]:
    """Run each attack in a process of its own until the block ends; raise RuntimeError when one failed."""
    processes = multiprocessing.get_context("spawn")
    over = processes.Event()
    running = [processes.Process(target=attack, args=(address, over), daemon=True) for attack in attacks]
    for process in running:
        process.start()
    try:
        yield
    finally:
        over.set()
        for process in running:
            process.join(60)
    failed = [
        attack.__name__ for attack, process in zip(attacks, running, strict=True) if process.exitcode != 0
    ]
    if failed:
        raise RuntimeError(f"an attack ended early: {', '.join(failed)}")


def measure(
    address: Address, memory: Callable[[], int], attacks: Sequence[Attack]
) -> tuple[list[float], list[int]]:
    """Return the seconds of 40 probes during the attacks, and the memory in bytes before, halfway and after."""
    bytes_held = [memory()]
    seconds: list[float] = []
    with attacked(address, attacks):
        time.sleep(SETTLE_S)  # until each has got going and the largest bodies are in memory
        for probe in range(PROBES):
            if probe == PROBES // 2:
                bytes_held.append(memory())
            seconds.append(live_seconds(address))
            time.sleep(0.05)
        bytes_held.append(memory())
    return seconds, bytes_held


def main() -> None:
    """Measure each attack and all of them, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hostile_clients",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", type=Path, default=Path("models"), help="model store [models]")
    store = parser.parse_args().store
    held = True
    print(machine())
    with tempfile.TemporaryDirectory() as state, served(store, Path(state)) as service:
        pid = service.processes()[0]
        for name, attacks in [
            ("nobody", ()),
            *((attack.__name__, (attack,)) for attack in ATTACKS),
            ("the three of the promise", PROMISED),
            ("all", ATTACKS),
        ]:
            seconds, held_bytes = measure(service.address, lambda: process_memory(pid)["rss"], attacks)
            within = sum(taken <= LIMIT_S for taken in seconds)
            print(
                f"{name:26} median {1000 * statistics.median(seconds):6.1f} ms  slowest {1000 * max(seconds):6.1f} ms  "
                f"{within} of {len(seconds)} within 100 ms  memory {' '.join(f'{b / 1e6:.0f}' for b in held_bytes)} MB"
            )
            held = held and (attacks is not PROMISED or within == len(seconds))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
