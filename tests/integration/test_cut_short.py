"""Training, compression, publishing and search that are killed, or meet a full disk: a repeat works, nothing is left.

Each is done in a child that is killed when it takes its n-th step below the folder of the test, for many n.
"""

import functools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from model_store.store import ModelStore
from slimctr.clicklogs.prepare import PrepareSettings, prepare
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.compression import compress
from slimctr.errors import SlimctrError
from slimctr.export import publish_run
from slimctr.frontier.budget import Budget
from slimctr.frontier.job import find_frontier
from slimctr.frontier.timing import time_together
from slimctr.training import TrainConfig, load_run, train
from slimctr.training.run import RUN_FILES

pytestmark = pytest.mark.slow  # commands that are killed at every step

STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
WATCHDOG_SECONDS = 300
TRAINED = sorted({*RUN_FILES} - {"report.json"})
CONFIG = TrainConfig.resolve(
    {
        "network": "dnn",
        "dim": 4,
        "params": {"hidden": [8]},
        "epochs": 2,
        "batch_rows": 256,
        "learning_rate": 0.01,
    }
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A child that was forked has the threads of its parent no more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    spec = SyntheticSpec(rows=1_200, cardinalities=(4, 12, 60), logit_std=2.5, seed=7)
    folder = tmp_path_factory.mktemp("cut") / "data"
    return prepare(PrepareSettings(log_format="synthetic", synthetic=spec), folder).path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(CONFIG, data, tmp_path_factory.mktemp("cut-run") / "run")


def in_child(work, root: Path, kill_at: int | None = None, file_bytes: int | None = None) -> tuple[bool, str]:
    """Do `work` in a child; say whether it was killed, at its `kill_at`-th step below `root`, and its error line."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(WATCHDOG_SECONDS)
            taken = 0

            def count(event, arguments):
                nonlocal taken
                if event in STEPS and isinstance(arguments[0], str | Path) and str(root) in str(arguments[0]):
                    taken += 1
                    if taken == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            if kill_at is not None:
                sys.addaudithook(count)
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            try:
                work()
            except (SlimctrError, OSError) as error:
                os.write(writing, str(error).encode())
        except BaseException as error:
            os.write(writing, b"unexpected: " + repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, pipe.read().decode()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def kills(work, root: Path, every: int = 1):
    """Yield after each kill of `work`, at its first step and every so many after it, until it ends unkilled."""
    kill_at = 1
    while True:
        killed, text = in_child(work, root, kill_at)
        assert text == ""
        if not killed:
            assert kill_at > every
            return
        yield kill_at
        kill_at += every
        assert kill_at < 1_000


def test_a_training_killed_at_any_step_is_repeated(run, data, tmp_path):
    out = tmp_path / "run"
    for _ in kills(lambda: train(CONFIG, data, out, resume=True), tmp_path, every=2):
        resumed = train(CONFIG, data, out, resume=True)
        assert resumed.metrics == run.metrics
        assert resumed.sha256 == run.sha256
        assert listing(out) == TRAINED
        shutil.rmtree(out)


def test_a_compression_killed_at_any_step_is_repeated_by_the_same_command(run, tmp_path):
    out = tmp_path / "small"

    def work():
        return compress(run, "ptq", {"epochs": 1}, None, out)

    for _ in kills(work, tmp_path):
        work()
        assert listing(out) == sorted(RUN_FILES)
        assert load_run(out).lineage.parent_sha256 == run.sha256
        shutil.rmtree(out)


def test_a_compression_that_is_complete_but_for_its_report_stays(run, tmp_path, monkeypatch):
    monkeypatch.setattr("slimctr.compression.verb.build_report", lambda models: os._exit(3))
    killed, _ = in_child(lambda: compress(run, "ptq", {}, None, tmp_path / "small"), tmp_path)
    assert not killed
    assert load_run(tmp_path / "small").metrics["valid"]["auc"] > 0


def test_a_compression_never_removes_a_training_that_can_be_resumed(run, data, tmp_path):
    out = tmp_path / "run"
    killed, _ = in_child(lambda: train(CONFIG, data, out), tmp_path, kill_at=14)
    assert killed
    before = listing(out)
    assert "config.yaml" in before
    with pytest.raises(SlimctrError, match="is not empty"):
        compress(run, "ptq", {}, None, out)
    assert listing(out) == before


def test_publishing_killed_at_any_step_leaves_nothing_once_it_is_repeated(run, tmp_path, monkeypatch):
    scratch = tmp_path / "temporary"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def work():
        publish_run(run, ModelStore(tmp_path / "store"), "m", "stable")

    for _ in kills(work, tmp_path, every=40):
        work()
        assert listing(scratch) == []
        names = [path.name for path in (tmp_path / "store" / "m").iterdir()]
        assert not [name for name in names if name.startswith(".")]
        shutil.rmtree(tmp_path / "store")


def test_a_search_killed_at_several_moments_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.setattr("slimctr.frontier.job.time_together", functools.partial(time_together, rounds=1))
    out = tmp_path / "out"

    def work():
        return find_frontier(run.path, Budget.parse("auc_drop<=1"), out, trials=2)

    for _ in kills(work, tmp_path, every=140):
        work()
        variants = {path.parent.name for path in out.glob("variants/*/variant.json")}
        assert {path.name for path in (out / "variants").iterdir()} == variants
        assert not [
            path for path in out.rglob("*") if path.name.endswith(".partial") or "publish-" in path.name
        ]
        versions = ModelStore(out / "store").versions("frontier")
        assert len(versions) == len(variants)
        shutil.rmtree(out)


@contextmanager
def full(folder: Path):
    """A file system of 12 kB at `folder`, where this process may mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


WIDE = CONFIG.changed(params={"hidden": [64, 64]})
"""Its weights are larger than what is left below."""
ROOM = 9_000


def test_a_training_on_a_full_disk_ends_in_one_line_and_goes_on_with_room(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "slimctr.training.job.require_room", lambda *_: None
    )  # another process filled it meanwhile
    out = tmp_path / "run"
    _, text = in_child(lambda: train(WIDE, data, out), tmp_path, file_bytes=ROOM)
    assert "checkpoint.pt' cannot be written (File too large); make room, then go on with --resume" in text
    assert listing(out) == ["config.yaml", "lineage.json"]
    assert train(WIDE, data, out, resume=True).metrics["valid"]["auc"] > 0
    with full(tmp_path / "disk"):
        _, text = in_child(lambda: train(WIDE, data, tmp_path / "disk" / "run"), tmp_path)
        assert "No space left on device" in text
        assert listing(tmp_path / "disk" / "run") == ["config.yaml", "lineage.json"]


def test_a_disk_that_is_too_small_is_noticed_before_the_first_epoch(data, tmp_path):
    with full(tmp_path / "disk"):
        _, text = in_child(lambda: train(WIDE, data, tmp_path / "disk" / "run"), tmp_path)
        assert "of disk and 0.0 MB are free" in text
        assert listing(tmp_path / "disk") == []


def test_compression_and_publishing_on_a_full_disk_leave_nothing(data, tmp_path):
    wide = train(WIDE, data, tmp_path / "wide")

    def work():
        compress(wide, "ptq", {}, None, tmp_path / "small")

    _, text = in_child(work, tmp_path, file_bytes=ROOM)
    assert "weights.safetensors" in text
    assert "File too large" in text
    assert not (tmp_path / "small").exists()
    work()
    store = ModelStore(tmp_path / "store")
    _, text = in_child(lambda: publish_run(wide, store, "m"), tmp_path, file_bytes=ROOM)
    assert "File too large" in text
    assert listing(tmp_path / "store") in ([], ["m"])
    with full(tmp_path / "disk"):
        _, text = in_child(lambda: publish_run(wide, ModelStore(tmp_path / "disk"), "m"), tmp_path)
        assert "No space left on device" in text
        assert listing(tmp_path / "disk") == ["m"]
    assert publish_run(wide, store, "m").version == 1
