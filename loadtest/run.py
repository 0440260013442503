"""Runs locust in this process for a number of seconds and gathers what it saw."""

import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser
from locust.env import Environment
from locust.html import get_html_report
from locust.stats import stats_history

from loadtest.problems import WRONG_ANSWER, Failed
from loadtest.report import Measurements

# What a user may take to get its last answer and to send its outcomes.
STOP_SECONDS = 10.0


def run(user: type[FastHttpUser], host: str, users: int, seconds: float, html: Path | None) -> Measurements:
    """Start `users` at once, let them send for `seconds`, and return what they saw; writes locust's page to `html`."""
    environment = Environment(user_classes=[user], host=host)
    environment.stop_timeout = STOP_SECONDS
    seen = Measurements()

    def saw(
        name: str, response_time: float, exception: BaseException | None, context: dict[str, Any], **_: Any
    ) -> None:
        problem = exception.problem if isinstance(exception, Failed) else None
        if problem is not None:
            seen.note(name, problem)
        if name != "score":
            seen.outcome_failures += exception is not None
            return
        seen.latencies_ms.append(response_time)
        seen.failures += exception is not None
        seen.wrong_answers += problem is not None and problem.slug == WRONG_ANSWER
        seen.rows += 0 if exception is not None else context["rows"]

    environment.events.request.add_listener(saw)
    runner = environment.create_local_runner()
    history = gevent.spawn(stats_history, runner)
    started_s, cpu_s = time.perf_counter(), cpu_seconds()
    runner.start(users, spawn_rate=users)
    gevent.sleep(seconds)
    runner.stop()
    seen.seconds = time.perf_counter() - started_s
    seen.generator_cpu_seconds = cpu_seconds() - cpu_s
    history.kill()
    if html is not None:
        html.write_text(get_html_report(environment, show_download_link=False), encoding="utf-8")
    runner.quit()
    return seen


def cpu_seconds() -> float:
    """Return the processor time of this process, user and system."""
    times = os.times()
    return times.user + times.system
