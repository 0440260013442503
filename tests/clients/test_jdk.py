"""`java.net.http.HttpClient` with its defaults, which asks for HTTP/2 by `Upgrade: h2c`."""

import json
import shutil

import pytest
from client_requests import Answered, asks, comparable, scored_and_clicked
from live_service import LiveService

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed")


def test_every_request_is_answered_as_to_a_plain_client(
    service: LiveService, direct: dict[str, Answered], jdk
) -> None:
    sent = []
    for ask in asks():
        sent += [(ask, "length"), (ask, "chunked")] if ask.body else [(ask, "none")]
    received = jdk(f"http://{service.host}:{service.port}", sent)
    for (ask, how), (version, answered) in zip([*sent, *sent], received, strict=True):
        assert version == "HTTP_1_1"
        assert comparable(answered) == direct[ask.name], (ask.name, how)


def test_outcomes_join_what_was_scored(service: LiveService, jdk) -> None:
    scored, clicked = scored_and_clicked("jdk")
    received = jdk(f"http://{service.host}:{service.port}", [(scored, "length"), (clicked, "chunked")])
    counts = [json.loads(answered[2]) for _, answered in received[1::2]]
    assert (counts[0]["joined"], counts[1]["duplicate"]) == (1, 1), counts
