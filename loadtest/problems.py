"""Why requests failed: the problem document of an answer, or the error of a connection."""

import json
from typing import NamedTuple

WRONG_ANSWER = "wrong-answer"
"""The slug of an answer without one probability per row, which no service sends."""
# What is no problem document, such as the page of a proxy, is shown so far.
MAX_SHOWN = 300


class Problem(NamedTuple):
    """Status (0: no answer), slug of the problem's type, None for another answer, and what it says."""

    status: int
    slug: str | None
    detail: str


class Failed(Exception):
    """A request that failed: what a user hands to the listeners (locust gives them a copy of its context)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"status {problem.status}: {problem.slug or ''} {problem.detail}")
        self.problem = problem


def problem_of(status: int, content: bytes | None, error: object = None) -> Problem:
    """Return what an answer says; `error` is that of the connection where there is none."""
    try:
        document = json.loads(content or b"")
        return Problem(status, document["type"].rpartition("/")[2], document["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        text = (content or b"").decode(errors="replace").strip()
        return Problem(status, None, (text or str(error or "no answer"))[:MAX_SHOWN])
