"""Folders that live as long as the process that made them: what a killed one left is found and removed."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch(parent: Path, prefix: str, mode: int = 0o777, inheritable: bool = False) -> Iterator[Path]:
    """Give a new empty folder in `parent` whose name starts with `prefix`; it is removed at the end of the block.

    First the folders of that prefix whose process is gone are removed. Each process holds a lock on its folder, which
    the kernel releases when it dies, however it dies. A folder that was renamed within the block stays.
    An `inheritable` lock passes to the programs that this process starts or becomes, and lasts as long as one of them.
    """
    sweep(parent, prefix)
    folder, descriptor = _new(parent, prefix, mode)
    os.set_inheritable(descriptor, inheritable)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep(parent: Path, prefix: str) -> None:
    """Remove the folders of `parent` that start with `prefix` and that no living process holds."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # a file, somebody else's, or gone meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_uid == os.geteuid():
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _new(parent: Path, prefix: str, mode: int) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds it."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(8)}"
        folder.mkdir(mode)
        descriptor = -1
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists():
                return folder, descriptor
        except (FileNotFoundError, BlockingIOError):  # another process swept it before it was held
            pass
        if descriptor >= 0:
            os.close(descriptor)
