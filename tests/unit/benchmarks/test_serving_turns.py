"""Turns of single requests: over real sockets, and the ratios that are made of their times."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from benchmarks.serving.turns import REQUESTS, SKIPPED, measure_turns, summary

NAMES = ("user", "ad")
IDS = np.arange(128, dtype=np.int32).reshape(64, 2)
TURNS = 3


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 4096  # head and body in one piece: a client that acknowledges late would hold up the second
    bodies: ClassVar[list[bytes]] = []
    status = 200

    def do_POST(self) -> None:
        type(self).bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(self.status)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"[0.5]    ")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    Answer.bodies, Answer.status = [], 200
    http = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=http.serve_forever)
    thread.start()
    yield SimpleNamespace(
        port=http.server_port,
        config=SimpleNamespace(name="one", paths={"columns": "/score", "rows": "/score"}),
    )
    http.shutdown()
    thread.join()
    http.server_close()


def test_every_server_and_form_gets_its_requests(server: SimpleNamespace) -> None:
    done = []
    taken = measure_turns([server], IDS, NAMES, TURNS, 0, lambda: done.append(1))
    assert set(taken) == {("one", "columns"), ("one", "rows")}
    assert all(times.shape == (TURNS, REQUESTS) and (times > 0).all() for times in taken.values())
    assert len(done) == TURNS
    assert len(Answer.bodies) == 2 * TURNS * (REQUESTS + SKIPPED)
    assert len(set(Answer.bodies)) == 2 * 64


def test_an_answer_that_is_not_200_ends_the_measurement(server: SimpleNamespace) -> None:
    Answer.status = 503
    with pytest.raises(RuntimeError, match="503"):
        measure_turns([server], IDS, NAMES, TURNS, 0, lambda: None)


def test_ratios_are_those_of_the_ninety_ninth_percentile() -> None:
    peer = np.random.default_rng(0).lognormal(0, 0.5, (200, REQUESTS))
    records = summary(
        {("ours", "rows"): 0.8 * peer, ("peer", "ids"): peer, ("other", "ids"): 2 * peer}, ["peer", "other"]
    )
    ours, of_peer, _ = records
    assert ours["p99_ratios"] == {"peer": [0.8, 0.8, 0.8], "other": [0.4, 0.4, 0.4]}
    assert of_peer["p99_ratios"] == {"other": [0.5, 0.5, 0.5]}
    # three decimals and one are told
    assert ours["p99_ms"] == pytest.approx(0.8 * np.percentile(peer, 99), abs=1e-3)
    # one decimal
    assert ours["requests_per_s"] == pytest.approx(1000 / (0.8 * peer.mean()), abs=0.1)
    assert ours["requests"] == peer.size


def test_the_interval_shows_what_resampled_turns_would_give() -> None:
    rng = np.random.default_rng(1)
    ours, peer = rng.lognormal(0, 0.5, (2, 200, REQUESTS))
    [record] = summary({("ours", "rows"): ours, ("peer", "ids"): peer}, ["peer"])[:1]
    ratio, low, high = record["p99_ratios"]["peer"]
    assert low < ratio < high
    assert low < 1 < high
    assert high - low < 0.3
