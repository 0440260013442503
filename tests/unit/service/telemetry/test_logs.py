"""Log lines are JSON, carry the known context and nothing else."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from service.telemetry.logs import JsonLines, configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.level
    sink = io.StringIO()
    configure_logging("info", sink)
    yield sink
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, JsonLines)]:
        root.removeHandler(handler)
    root.setLevel(before)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_event_and_context(stream: io.StringIO) -> None:
    logging.getLogger("service.predict").info(
        "predict", extra={"request_id": "r1", "rows": 3, "queue_ms": 0.5}
    )
    (line,) = lines(stream)
    assert str(line.pop("ts")).endswith("+00:00")
    assert line == {
        "level": "info",
        "event": "predict",
        "logger": "service.predict",
        "request_id": "r1",
        "rows": 3,
        "queue_ms": 0.5,
    }


def test_context_outside_the_list_is_not_written(stream: io.StringIO) -> None:
    logging.getLogger("service").info("x", extra={"unit_id": "secret", "instances": [1], "api_key": "k"})
    assert set(lines(stream)[0]) == {"ts", "level", "event", "logger"}


def test_newlines_and_tracebacks_stay_on_one_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("service").exception("failed\nbadly")
    (line,) = lines(stream)
    assert line["event"] == "failed\nbadly"
    assert "ValueError: two" in str(line["exception"])


def test_uvicorn_lines_are_folded_in_and_its_access_lines_are_off(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7, extra={"color_message": "c"})
    logging.getLogger("uvicorn.access").info("GET /readyz")
    assert [line["event"] for line in lines(stream)] == ["Started server process [7]"]


def test_configuring_again_replaces_the_handler_and_level(stream: io.StringIO) -> None:
    again = io.StringIO()
    configure_logging("warning", again)
    logging.getLogger("service").info("quiet")
    logging.getLogger("service").warning("loud")
    assert stream.getvalue() == ""
    assert [line["event"] for line in lines(again)] == ["loud"]


def test_values_json_does_not_know_are_written_as_text(stream: io.StringIO) -> None:
    logging.getLogger("service").info("load", extra={"reason": ValueError("digest differs")})
    assert lines(stream)[0]["reason"] == "digest differs"
