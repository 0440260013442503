"""The locust user: sends prepared calls one after the other, checks every answer, returns outcomes."""

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from locust import FastHttpUser, constant, constant_throughput, task

from loadtest.calls import JSON_HEADERS, Call, complaint_about, exposure_id
from loadtest.problems import WRONG_ANSWER, Failed, Problem, problem_of

# Outcomes are sent when this many wait, and when the user stops: one call per request would be traffic of its own.
OUTCOMES_PER_CALL = 500


def scoring_user(
    calls: Sequence[Call], key: str | None, requests_per_second: float | None
) -> type[FastHttpUser]:
    """Return the class of users that send `calls`, each user from another place on and in a circle.

    A user waits for its answer before it sends again; `requests_per_second` bounds the rate of each.
    """
    places = itertools.count(step=7)

    class ScoringUser(FastHttpUser):
        """One closed-loop client with one connection."""

        wait_time = constant(0) if requests_per_second is None else constant_throughput(requests_per_second)
        network_timeout = 30.0
        connection_timeout = 5.0

        def __init__(self, environment: Any) -> None:
            super().__init__(environment)
            self._next = next(places)
            self._outcomes: list[dict[str, Any]] = []
            self._key = {} if key is None else {"Authorization": f"Bearer {key}"}

        @task
        def score(self) -> None:
            """Send the next call; an answer that is wrong counts as a failure."""
            call = calls[self._next % len(calls)]
            self._next += 1
            with self.client.post(
                call.path,
                data=call.body,
                headers={**call.headers, **self._key},
                name="score",
                catch_response=True,
                context={"rows": call.rows},
            ) as response:
                if response.status_code != 200:
                    response.failure(Failed(failure_of(response)))
                    return
                complaint = complaint_about(call, response.content)
                if complaint is not None:
                    response.failure(Failed(Problem(200, WRONG_ANSWER, complaint)))
                    return
                if call.clicks is not None:
                    self._remember(call.clicks, exposure_id(response.json()))

        def on_stop(self) -> None:
            """Send the outcomes that still wait."""
            self._send_outcomes()

        def _remember(self, clicks: Sequence[int], request_id: str) -> None:
            now = datetime.now(UTC).isoformat()
            self._outcomes += [
                {
                    "request_id": request_id,
                    "index": index,
                    "clicked": clicked,
                    "occurred_at": now,
                }
                for index, clicked in enumerate(clicks)
            ]
            if len(self._outcomes) >= OUTCOMES_PER_CALL:
                self._send_outcomes()

        def _send_outcomes(self) -> None:
            if self._outcomes:
                body = json.dumps({"outcomes": self._outcomes})
                self._outcomes = []
                with self.client.post(
                    "/v1/outcomes",
                    data=body,
                    headers={**JSON_HEADERS, **self._key},
                    name="outcomes",
                    catch_response=True,
                ) as response:
                    if response.status_code != 200:
                        response.failure(Failed(failure_of(response)))
                    elif faults := response.json()["errors"]:
                        first = f"{faults[0]['pointer']}: {faults[0]['detail']}"
                        response.failure(Failed(Problem(200, "invalid-input", first)))

    return ScoringUser


def failure_of(response: Any) -> Problem:
    """Return why a request failed, also where no answer came."""
    return problem_of(response.status_code, response.content, getattr(response, "error", None))
