"""One process at a time writes a data set; what a killed one leaves does not stand in the way."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slimctr.clicklogs import Dataset, PrepareSettings, SyntheticSpec, prepare
from slimctr.clicklogs.download import REMOTE_LOGS, download
from slimctr.errors import ConfigError

SMALL = PrepareSettings("synthetic", synthetic=SyntheticSpec(rows=300, ids=200))
ENDLESS = ("data", "prepare", "--format", "synthetic", "--rows", "1000000000", "--ids", "200", "--out")
WATCHDOG_SECONDS = 60


@contextlib.contextmanager
def held(folder: Path):
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


@contextlib.contextmanager
def endless_prepare(out: Path):
    """Run `slimctr data prepare` in a process of its own, from the moment when it writes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "slimctr", *ENDLESS, str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"TERM": "dumb"},
    )
    partial = out.with_name(f".{out.name}.partial")
    try:
        for _ in range(WATCHDOG_SECONDS * 20):
            if partial.is_dir() and _is_locked(partial):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the command ended with {process.wait(0.05)}: {process.stderr.read()!r}")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _is_locked(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_the_second_of_two_is_refused_and_a_killed_one_does_not_stand_in_the_way(tmp_path):
    out = tmp_path / "out"
    with endless_prepare(out) as process:
        with pytest.raises(ConfigError, match=f"another command writes into '{out}'"):
            prepare(SMALL, out)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert out.with_name(".out.partial").is_dir()
    prepare(SMALL, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    Dataset(out).load("train")


def test_a_kill_between_the_renames_loses_no_data_set(tmp_path):
    out = tmp_path / "out"
    prepare(SMALL, out)
    before = (out / "dataset.json").read_bytes()
    out.rename(tmp_path / ".out.replaced")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "train.parquet").write_bytes(b"half")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        prepare(SMALL, out)
    assert (out / "dataset.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_behind_the_renames_leaves_nothing_that_stays(tmp_path):
    out = tmp_path / "out"
    prepare(SMALL, out)
    prepare(SMALL, tmp_path / ".out.replaced")
    prepare(SMALL, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_another_command_put_there_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "out"

    def other(step: str, rows: int, fraction: float) -> None:
        out.mkdir(exist_ok=True)
        (out / "theirs").write_text("kept")

    with pytest.raises(ConfigError, match="exists and is not empty"):
        prepare(SMALL, out, progress=other)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["theirs"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_refused_prepare_leaves_what_the_other_writes(tmp_path, overwrite):
    out = tmp_path / "out"
    partial = tmp_path / ".out.partial"
    with held(partial):
        (partial / "train.parquet").write_text("theirs")
        with pytest.raises(ConfigError, match="another command writes"):
            prepare(SMALL, out, overwrite=overwrite)
        assert (partial / "train.parquet").read_text() == "theirs"


def test_the_second_of_two_downloads_is_refused(tmp_path):
    with held(tmp_path / "out"), pytest.raises(ConfigError, match="another command writes into"):
        download(REMOTE_LOGS["frappe"], tmp_path / "out", "http://127.0.0.1:9")


def test_a_write_that_fails_says_so_in_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for a full disk: both fail a write in the middle."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
        "from slimctr.cli import main; main()"
    )
    command = ["data", "prepare", "--format", "synthetic", "--rows", "5000", "--ids", "200", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr
    assert list(tmp_path.iterdir()) == []
    prepare(SMALL, tmp_path / "out")


@pytest.mark.parametrize("out", [".", "..", "/", "x/.."])
def test_a_folder_without_a_name_of_its_own_is_refused(out):
    with pytest.raises(ConfigError, match="cannot be put into place"):
        prepare(SMALL, Path(out))


@pytest.mark.parametrize("leads_to", ["a data set", "nothing yet"])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, leads_to):
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to("target")
    if leads_to == "a data set":
        prepare(SMALL, target)
    prepare(SMALL, link, overwrite=True)
    assert link.is_symlink()
    assert Dataset(target).info["splits"] == Dataset(link).info["splits"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nothing can be made")
def test_a_folder_that_cannot_be_made_is_an_error_and_no_wait():
    with pytest.raises(ConfigError, match="'/proc/nowhere' cannot be made"):
        prepare(SMALL, Path("/proc/nowhere"))
