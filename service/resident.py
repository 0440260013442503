"""Measures what this process holds in memory for one model version.

`mapped` and the file part of `resident` are read from the kernel at any time: the address ranges that map files of
the version directory, and how much of them is in memory. The rest of `resident` is what loading added to the
anonymous memory of the process (the network and its buffers), measured once around the load.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SMAPS = Path("/proc/self/smaps")
SMAPS_ROLLUP = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True)
class MappedFiles:
    """Bytes of the files of one folder: mapped, in memory, and in memory shared with another process."""

    mapped: int = 0
    resident: int = 0
    shared: int = 0


def parse_mapped_files(smaps: str, folder: Path) -> MappedFiles:
    """Return the sums over the mappings of `/proc/PID/smaps` whose file lies in `folder`."""
    prefix = f"{folder}/"
    sums = {"Size": 0, "Rss": 0, "Shared_Clean": 0, "Shared_Dirty": 0}
    inside = False
    for line in smaps.splitlines():
        name, colon, rest = line.partition(":")
        if not colon or " " in name:
            # A mapping's first line: range, permissions, offset, device, inode, path.
            columns = line.split(maxsplit=5)
            inside = len(columns) == 6 and columns[5].startswith(prefix)
        elif inside and name in sums:
            sums[name] += int(rest.split()[0]) * 1024
    return MappedFiles(sums["Size"], sums["Rss"], sums["Shared_Clean"] + sums["Shared_Dirty"])


def mapped_files(folder: Path) -> MappedFiles:
    """Return the sums for this process now; zeros where the kernel does not tell."""
    try:
        return parse_mapped_files(SMAPS.read_text(), folder.resolve())
    except OSError:
        return MappedFiles()


def return_free_memory() -> None:
    """Give memory that the C allocator keeps free back to the system, where it can (glibc); takes about 1 ms."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process now, 0 where the kernel does not tell."""
    try:
        for line in SMAPS_ROLLUP.read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
