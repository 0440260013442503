"""The folder of a search: one search at a time, one run, and a journal that survives whoever was killed in it."""

import json
import logging
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from slimctr.errors import ConfigError
from slimctr.frontier.folder import IDENTITY_FILE, JournalLock, claimed, identity, whole_lines
from slimctr.frontier.search import TRIALS_FILE, _open_study

pytestmark = pytest.mark.slow  # searches

RUN = SimpleNamespace(
    path="runs/a", sha256={"weights": "1"}, lineage=SimpleNamespace(data_sha256={"train.parquet": "2"})
)


def test_a_folder_belongs_to_the_search_that_made_it(tmp_path):
    folder = tmp_path / "out"
    with claimed(folder, RUN):
        assert json.loads((folder / IDENTITY_FILE).read_text()) == identity(RUN)
    with claimed(folder, RUN):
        pass
    other = SimpleNamespace(**{**vars(RUN), "sha256": {"weights": "3"}})
    with pytest.raises(ConfigError, match=r"the weights of the run differ; choose another --out, or delete"):
        claimed(folder, other).__enter__()
    moved = SimpleNamespace(**{**vars(RUN), "lineage": SimpleNamespace(data_sha256={})})
    with pytest.raises(ConfigError, match="the data set of the run differ"):
        claimed(folder, moved).__enter__()
    (folder / IDENTITY_FILE).write_text(json.dumps({**identity(RUN), "space": "another"}))
    with pytest.raises(ConfigError, match="the chains that this version of slimctr tries"):
        claimed(folder, RUN).__enter__()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_an_identity_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / IDENTITY_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        claimed(tmp_path, RUN).__enter__()


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / TRIALS_FILE).touch()
    with pytest.raises(ConfigError, match="holds no search"):
        claimed(tmp_path, RUN).__enter__()


def test_the_second_of_two_searches_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another command writes into"):
            claimed(tmp_path / "out", RUN).__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with claimed(tmp_path / "out", RUN):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from slimctr.frontier.folder import claimed
run = SimpleNamespace(
    path="runs/a", sha256={"weights": "1"}, lineage=SimpleNamespace(data_sha256={"train.parquet": "2"})
)
with claimed(Path(sys.argv[1]), run):
    print("held", flush=True)
    time.sleep(600)
"""

KILLED_INSIDE = """
import os, signal, sys
from pathlib import Path
from slimctr.frontier.folder import JournalLock
os.chdir(sys.argv[1])
lock = JournalLock(Path("out/trials.log"))
lock.acquire()
with open("out/trials.log", "ab") as journal:
    journal.write(b'{"op_code":4,"worker_id":"w')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_inside_the_journals_lock_stops_nobody(tmp_path, monkeypatch):
    """Killed halfway through a line, `--out` a relative path: the next one gets the lock and a whole journal."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    relative = type(tmp_path)("out")
    study = _open_study(relative, 1)
    study.enqueue_trial({"tables": "ptq"})
    before = (relative / TRIALS_FILE).read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED_INSIDE, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (relative / TRIALS_FILE).read_bytes().endswith(b"\n")
    again = _open_study(relative, 1)
    again.enqueue_trial({"tables": "float"})
    assert (relative / TRIALS_FILE).read_bytes().startswith(before)
    assert len(_open_study(relative, 1).trials) == 2


def test_who_waits_for_the_journal_sleeps(tmp_path):
    """The kernel wakes the second one: neither polls, and the time on the processor stays small."""
    journal = tmp_path / TRIALS_FILE
    first, second = JournalLock(journal), JournalLock(journal)
    first.acquire()
    got = threading.Event()
    waiter = threading.Thread(target=lambda: (second.acquire(), got.set(), second.release()))
    waiter.start()
    assert not got.wait(0.2)
    first.release()
    assert got.wait(60)
    waiter.join()


@pytest.mark.parametrize(
    ("content", "whole"), [(b"", 0), (b"a", 0), (b"a\n", 2), (b"a\nbc", 2), (b"a\n\n", 3), (b"x" * 50, 0)]
)
@pytest.mark.parametrize("block", [1, 3, 1 << 16])
def test_whole_lines_end_at_the_last_line_end(tmp_path, content, whole, block):
    (tmp_path / "file").write_bytes(content)
    assert whole_lines(tmp_path / "file", block) == whole


def test_a_trial_that_fails_is_told_by_its_error_alone(tmp_path, monkeypatch):
    def objective(trial):
        raise OSError("no space left")

    logged = []
    monkeypatch.setattr(logging.getLogger("optuna"), "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logging.getLogger("optuna").handlers[0], "handle", logged.append)
    with pytest.raises(OSError, match="no space left"):
        _open_study(tmp_path, 1).optimize(objective, n_trials=1)
    assert logged == []
