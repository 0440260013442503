"""Output folders: one command at a time writes into each."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimctr.errors import ConfigError


@contextmanager
def sole_writer(folder: Path, out: Path | None = None) -> Iterator[None]:
    """Hold a folder, made when absent, within the block; the kernel lets go of it when the process dies.

    Raises ConfigError when it cannot be made or another command holds it; the message names `out`, the folder itself
    without one.
    """
    descriptor = _held(folder, out or folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _held(folder: Path, out: Path) -> int:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"directory '{out}' cannot be made: {error}") from error
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # taken away since it was made: its holder has just finished
            continue
        except OSError as error:
            raise ConfigError(f"directory '{out}' cannot be opened: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, named = os.fstat(descriptor), os.stat(folder)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(
                f"another command writes into '{out}'; wait until it ends, or choose another --out"
            ) from None
        except FileNotFoundError:
            os.close(descriptor)
            continue
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
            return descriptor
        os.close(descriptor)
