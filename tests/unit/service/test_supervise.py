"""The supervisor as a process of its own, with workers that only pretend to serve."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.multiprocess import mark_process_dead

from service import supervise
from service.supervise import RETRY_SECONDS, SERVES

pytestmark = pytest.mark.slow  # starts processes

# Starts the first workers, `sys.argv[2:]` telling what each does, and becomes their supervisor.
PARENT = """
import json, os, signal, sys
document = json.loads(sys.argv[1])
life = os.pipe()
for slot, code in enumerate(sys.argv[2:]):
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    document["workers"][pid] = (slot, None)
    if code == "pass":  # ended before there is a supervisor
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
handover = os.memfd_create("handover")
os.write(handover, json.dumps({**document, "life": life}).encode())
for inherited in (handover, *life):
    os.set_inheritable(inherited, True)
os.execv(sys.executable, [sys.executable, "-S", "-P", document["supervise"], str(handover)])
"""
# The two first replacements are refused, the third serves and dies, the fourth serves and asks for the end.
REPLACEMENT = """
import json, os, signal, sys, time
handover, slot, news = map(int, sys.argv[1:])
document = json.loads(os.pread(handover, 10000, 0))
with open(document["lives"], "a+") as file:
    found = sorted(os.listdir(document["metrics"])) if os.path.isdir(document["metrics"]) else []
    file.write(json.dumps([slot, time.monotonic(), found, os.getpgid(0) == os.getpid()]) + "\\n")
    file.seek(0)
    life = len(file.readlines())
if life <= 2:
    os.write(news, "the state does not »answer«".encode())
    sys.exit(3)
os.write(news, document["serves"].encode())
if life == 4:
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
"""
GAUGES = [f"gauge_{mode}_{slot}.db" for mode in ("livesum", "livemax", "mostrecent") for slot in (1, 11)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of metric files."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    for name in (*GAUGES, "counter_1.db"):
        (folder / name).touch()
    return folder


@contextmanager
def supervised(tmp_path: Path, folder: Path, *workers: str) -> Iterator[subprocess.Popen[str]]:
    document = {
        "program": [sys.executable, "-c", REPLACEMENT],
        **{
            "metrics": str(folder),
            "workers": {},
            "listeners": [],
            "lives": str(tmp_path / "lives"),
            "serves": SERVES,
        },
        "supervise": supervise.__file__,
    }
    command = [sys.executable, "-c", PARENT, json.dumps(document), *workers]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_replacement_that_cannot_start_is_tried_again_while_the_others_serve(
    tmp_path: Path, folder: Path
) -> None:
    with supervised(tmp_path, folder, "import signal; signal.pause()", "import sys; sys.exit(7)") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    lines = [json.loads(line) for line in output.splitlines()]
    events = [(line["event"], line["detail"].partition(", ")[2] or line["detail"]) for line in lines]
    refused = ("a worker could not start and is tried again", "the state does not »answer«")
    assert events == [
        ("worker ended", "status 7"),
        *[("worker ended", "status 3"), refused] * 2,
        ("worker ended", "status 0"),
    ]
    for line in lines:
        assert list(line) == ["ts", "level", "event", "logger", "detail"]
        assert (line["level"], line["logger"]) == ("error", "slimctr.workers")
        assert datetime.fromisoformat(line["ts"]).isoformat(timespec="milliseconds") == line["ts"]
    lives = [json.loads(line) for line in (tmp_path / "lives").read_text().splitlines()]
    assert [(slot, group) for slot, _, _, group in lives] == [(1, True)] * 4
    begins = [begin for _, begin, _, _ in lives]
    assert min(begins[1] - begins[0], begins[2] - begins[1]) >= RETRY_SECONDS
    assert not folder.exists()


def test_metric_files_of_the_dead_are_treated_as_their_client_does(tmp_path: Path, folder: Path) -> None:
    with supervised(tmp_path, folder, "import signal; signal.pause()", "pass") as process:
        process.communicate(timeout=60)
    _, _, found, _ = json.loads((tmp_path / "lives").read_text().splitlines()[0])
    folder.mkdir()
    for name in (*GAUGES, "counter_1.db"):
        (folder / name).touch()
    mark_process_dead(1, str(folder))
    assert found == sorted(os.listdir(folder))
    assert len(found) == len(GAUGES) - 1


def test_neither_a_log_that_nobody_reads_nor_a_folder_that_is_gone_ends_the_service(
    tmp_path: Path, folder: Path
) -> None:
    remove = f"import shutil; shutil.rmtree({str(folder)!r})"
    with supervised(tmp_path, folder, "import signal; signal.pause()", remove) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
    assert len((tmp_path / "lives").read_text().splitlines()) == 4


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_worker(tmp_path: Path, folder: Path, sig: signal.Signals) -> None:
    worker = (
        "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2, 15]); os.write(1, b'here\\n'); "
        "os.write(1, b'%d\\n' % signal.sigwait([2, 15]))"
    )
    with supervised(tmp_path, folder, worker, worker) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["here\n"] * 2
        # Nothing while the program is exchanged.
        while Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[3:4] != [supervise.__file__]:
            pass
        process.send_signal(sig)
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.split()) == (0, [str(int(sig))] * 2)
