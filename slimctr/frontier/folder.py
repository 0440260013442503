"""The folder of a search: whose search it holds, that one search at a time works in it, and its journal's lock."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimctr.errors import ConfigError
from slimctr.folders import sole_writer
from slimctr.frontier import space
from slimctr.training import Run
from slimctr.training.run import PARTIAL, write_whole

IDENTITY_FILE = "search.json"
PARTS = {
    "run": "the weights of the run",
    "data": "the data set of the run",
    "space": "the chains that this version of slimctr tries",
}


def identity(run: Run) -> dict[str, Any]:
    """Return the digests of what decides every trial and figure of a search: run, data, space.

    The budget is no part of it: it only chooses among what was measured.
    """
    tried = hashlib.sha256(Path(space.__file__).read_bytes()).hexdigest()
    return {"run": dict(run.sha256), "data": dict(run.lineage.data_sha256), "space": tried}


@contextmanager
def claimed(folder: Path, run: Run) -> Iterator[None]:
    """Hold `folder` for one search of `run` within the block; the kernel lets go of it when the process dies.

    Raises ConfigError when another search works there, or when the folder holds anything but a search of this run.
    """
    with sole_writer(folder):
        others = {entry.name for entry in folder.iterdir()} - {IDENTITY_FILE + PARTIAL}
        if others and IDENTITY_FILE not in others:
            raise ConfigError(f"'{folder}' is not empty and holds no search; choose another --out")
        if not others:
            write_whole(folder / IDENTITY_FILE, json.dumps(identity(run), indent=1).encode())
        require_same_search(folder, run)
        yield


def require_same_search(folder: Path, run: Run) -> None:
    """Raise ConfigError, saying what differs, unless `folder` holds a search of `run` as it is now."""
    try:
        before = json.loads((folder / IDENTITY_FILE).read_bytes())
        different = [PARTS[part] for part, digests in identity(run).items() if before[part] != digests]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"'{folder / IDENTITY_FILE}' cannot be read: choose another --out, or delete '{folder}'"
        ) from None
    if different:
        raise ConfigError(
            f"'{folder}' holds the search of another run than '{run.path}': {' and '.join(different)} differ; "
            "choose another --out, or delete that folder"
        )


class JournalLock:
    """A lock on the journal itself that the kernel releases when its holder dies.

    Optuna's own lock is a link beside the journal, which outlives a killed process. Whoever gets the lock first
    cuts off the half line that a killed or failed writer left: Optuna reads no journal that holds one.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock, asleep."""
        descriptor = os.open(self._journal, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.ftruncate(descriptor, whole_lines(self._journal))
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others have the lock."""
        os.close(self._descriptor)


def whole_lines(path: Path, block: int = 1 << 16) -> int:
    """Return the bytes of a file up to its last line end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - block)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                return start + found + 1
            end = start
    return 0
