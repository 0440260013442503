"""Tells whether files of a version changed since they were looked at, without reading them."""

import os
from pathlib import Path
from typing import NamedTuple

from model_store.seal import seal_path


class FileState(NamedTuple):
    """What the file system says about a file; any write changes it, a replacement has another inode."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "FileState":
        """Return the state in the answer of the file system."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def is_same_file(self, other: "FileState") -> bool:
        """Return whether both are states of one file, which may have been written to between them."""
        return (self.device, self.inode) == (other.device, other.inode)


def file_states(directory: Path) -> dict[str, FileState]:
    """Return the states of all that lies in a version directory, and of its seal; nothing when it is not there."""
    states = {}
    try:
        for entry in os.scandir(directory):
            states[entry.name] = FileState.of(entry.stat(follow_symlinks=False))
        seal = seal_path(directory)
        states[f"../{seal.name}"] = FileState.of(seal.lstat())
    except OSError:
        pass  # what is gone or cannot be read is left out, and coming back it is a change
    return states
