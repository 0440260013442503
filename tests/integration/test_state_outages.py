"""A state that hangs, is locked or full: scoring goes on, whoever needs the state hears so, and nothing is lost."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service
from redis_server import redis_server
from served import served, wait_until_ready

from service.experiments import journal
from service.experiments import redis as redis_backend
from service.experiments import sqlite as sqlite_backend

EXPERIMENT = {
    "key": "outage",
    "model": "ctr",
    "variants": [
        {"name": "float", "version": "stable", "weight": 0.5},
        {"name": "small", "version": "canary", "weight": 0.5},
    ],
    "default": "float",
}
# Far more than any of these tests needs on any machine.
WATCHDOG_S = 60.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outages")
    build_artifact(root / "models", label="stable", compressed=False)
    build_artifact(root / "models", label="canary")
    (root / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return root / "models"


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is not what is tested."""
    monkeypatch.setattr(redis_backend, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(sqlite_backend, "BUSY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(journal, "REST_S", 0.5)


def outcome(answer: dict[str, Any], clicked: int = 1) -> dict[str, Any]:
    return {
        "outcome_id": answer["request_id"],
        "request_id": answer["request_id"],
        "index": 0,
        "clicked": clicked,
        "occurred_at": time.time(),
    }


def report(http: httpx.Client, *answers: dict[str, Any]) -> httpx.Response:
    return http.post("/v1/outcomes", json={"outcomes": [outcome(answer) for answer in answers]})


def ask(http: httpx.Client, number: int) -> dict[str, Any]:
    response = http.post("/v1/predict", json={"instances": raw_rows(1), "unit_id": f"u{number}"})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def check_unavailable(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["type"]) == (503, "/problems/state-unavailable")
    assert response.headers["retry-after"]


def check_outage(http: httpx.Client) -> list[dict[str, Any]]:
    """Check what holds while the state does not answer; return answers that were given meanwhile."""
    answers = [ask(http, number) for number in range(20)]
    with ThreadPoolExecutor(12) as posts:
        for response in posts.map(lambda answer: report(http, answer), answers[:12]):
            check_unavailable(response)
    check_unavailable(http.get("/v1/experiments/outage/results"))
    page = http.get("/dashboard/data")
    assert page.status_code == 200, page.text
    answers += [ask(http, number) for number in range(20, 30)]
    return answers


def check_recovery(http: httpx.Client, answers: list[dict[str, Any]]) -> None:
    """Check that every answer of the outage was an exposure, once the state is back."""
    deadline = time.monotonic() + WATCHDOG_S
    while (response := report(http, answers[0])).status_code != 200:
        check_unavailable(response)
        assert time.monotonic() < deadline
    found = report(http, *answers).json()
    assert found["joined"] + found["duplicate"] == len(answers), found
    assert http.get("/v1/experiments/outage/results").status_code == 200


@pytest.fixture
def watched(store: Path, tmp_path: Path) -> Iterator[Any]:
    """Starts the service on a state."""
    with ExitStack() as running:

        def start(state_url: str) -> LiveService:
            return running.enter_context(
                live_service(
                    store, tmp_path, experiment=store.parent / "experiment.yaml", state_url=state_url
                )
            )

        yield start


def test_a_redis_server_that_hangs(watched: Any, tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        with redis.Redis.from_url(url) as client:
            pid = client.info("server")["process_id"]
        service = watched(url)
        assert report(service.http, ask(service.http, 99)).json()["joined"] == 1
        os.kill(pid, signal.SIGSTOP)
        try:
            answers = check_outage(service.http)
            waiting = service.app.state.experiments._exposures.queued_bytes
            assert waiting > 0
        finally:
            os.kill(pid, signal.SIGCONT)
        check_recovery(service.http, answers)
        metrics = service.http.get("/metrics").text
        assert 'slimctr_event_log_dropped_total{sink="state"} 0.0' in metrics
        assert 'slimctr_event_log_failed_total{sink="state"} 0.0' in metrics


LOCK = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_file_that_another_process_locks(watched: Any, tmp_path: Path) -> None:
    path = tmp_path / "locked.sqlite3"
    service = watched(f"sqlite:///{path}")
    assert report(service.http, ask(service.http, 99)).json()["joined"] == 1
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        answers = check_outage(service.http)
    finally:
        holder.communicate()
    check_recovery(service.http, answers)


def test_a_disk_that_is_full(store: Path, tmp_path: Path) -> None:
    """The limit on the size of files stands in for the disk: the next write of the state fails."""
    path = tmp_path / "full.sqlite3"
    with (
        served(
            store,
            "--experiment",
            str(store.parent / "experiment.yaml"),
            SLIMCTR_STATE_URL=f"sqlite:///{path}",
        ) as running,
        httpx.Client(base_url=running.address(), timeout=WATCHDOG_S) as http,
    ):
        wait_until_ready(http)
        assert report(http, ask(http, 99)).json()["joined"] == 1
        size = path.with_name(path.name + "-wal").stat().st_size
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        answers = check_outage(http)
        resource.prlimit(
            running.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        check_recovery(http, answers)


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def delete_all(path: Path) -> None:
    for found in (path, beside(path, "-wal"), beside(path, "-shm")):
        found.unlink()


def replace_by_another(path: Path) -> None:
    other = path.with_name("other.sqlite3")
    copied = sqlite3.connect(other)
    copied.execute("CREATE TABLE t (x)")
    copied.commit()
    copied.close()
    other.replace(path)


def replace_by_its_copy(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


FILE_FAULTS: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "deleted with what is beside it": delete_all,
    "the write-ahead log deleted": lambda path: beside(path, "-wal").unlink(),
    "the shared index deleted": lambda path: beside(path, "-shm").unlink(),
    "its folder deleted": lambda path: shutil.rmtree(path.parent),
    "its folder renamed": lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
    "replaced by another": replace_by_another,
    "replaced by its copy": replace_by_its_copy,
    "a folder in its place": lambda path: (path.unlink(), path.mkdir()),
    "cut to nothing": lambda path: os.truncate(path, 0),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
}


@pytest.mark.parametrize("fault", FILE_FAULTS.values(), ids=FILE_FAULTS.keys())
def test_a_file_that_is_not_the_open_one_any_more(
    watched: Any, tmp_path: Path, fault: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "folder" / "state.sqlite3"
    service = watched(f"sqlite:///{path}")
    assert report(service.http, ask(service.http, 99)).json()["joined"] == 1
    fault(path)
    answers = check_outage(service.http)
    refused = report(service.http, answers[0])
    check_unavailable(refused)
    assert "state.sqlite3" in refused.json()["detail"]
    deadline = time.monotonic() + WATCHDOG_S
    while not (said := [record for record in caplog.records if "is down" in record.message]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(said) <= 4, "each kind of work says it once"
    assert "state.sqlite3" in said[0].__dict__["detail"]


def test_a_file_that_is_vacuumed_is_still_the_file(watched: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    service = watched(f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE filler AS SELECT randomblob(1000000) AS x")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert report(service.http, ask(service.http, 1)).json()["joined"] == 1
        before = path.stat().st_size
        other.execute("DROP TABLE filler")
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < before
    assert report(service.http, ask(service.http, 2)).json()["joined"] == 1


def test_a_file_that_comes_back_is_used_again(watched: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    service = watched(f"sqlite:///{folder}/state.sqlite3")
    first = ask(service.http, 99)
    assert report(service.http, first).json()["joined"] == 1
    away = folder.rename(tmp_path / "away")
    answers = check_outage(service.http)
    away.rename(folder)
    check_recovery(service.http, answers)
    assert report(service.http, first).json()["duplicate"] == 1


def test_a_start_after_the_loss_begins_anew(watched: Any, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "state.sqlite3"
    first = watched(f"sqlite:///{path}")
    answer = ask(first.http, 99)
    assert report(first.http, answer).json()["joined"] == 1
    delete_all(path)
    check_unavailable(report(first.http, answer))
    second = watched(f"sqlite:///{path}")
    assert report(second.http, ask(second.http, 1)).json()["joined"] == 1
    check_unavailable(report(first.http, answer))
