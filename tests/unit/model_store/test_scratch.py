"""Folders of one process: gone with it, in the end or at the next one's start; never taken from a living one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model_store.scratch import scratch

HOLDER = """
import sys, time
from pathlib import Path
from model_store.scratch import scratch
with scratch(Path(sys.argv[1]), "work-") as folder:
    (folder / "big").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    (tmp_path / "work-file").touch()
    (tmp_path / "other").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        held = Path(holder.stdout.readline().strip())
        with scratch(tmp_path, "work-") as mine:
            assert (held / "big").is_file()
            assert mine.is_dir()
        assert not mine.exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert (held / "big").is_file()
    with scratch(tmp_path, "work-") as mine:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["other", "work-file", mine.name])


def test_a_folder_that_was_renamed_stays_and_one_of_a_failed_block_does_not(tmp_path):
    with scratch(tmp_path, "work-") as folder:
        (folder / "file").touch()
        folder.rename(tmp_path / "kept")
    assert (tmp_path / "kept" / "file").is_file()
    with pytest.raises(KeyError), scratch(tmp_path, "work-"):
        raise KeyError
    assert os.listdir(tmp_path) == ["kept"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / "work-link").symlink_to(tmp_path / "elsewhere")
    with scratch(tmp_path, "work-"):
        pass
    assert (tmp_path / "elsewhere" / "file").is_file()
