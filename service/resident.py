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

from model_store.pacing import pause

SMAPS = Path("/proc/self/smaps")
STATUS = Path("/proc/self/status")
_STEP_BYTES = 16 * 1024
_MAPPING_LINES = 64  # more than the kernel writes about one mapping


@dataclass(frozen=True)
class MappedFiles:
    """Bytes of the files of one folder: mapped, in memory, and in memory shared with another process."""

    mapped: int = 0
    resident: int = 0
    shared: int = 0


def parse_mapped_files(smaps: str, folder: Path) -> MappedFiles:
    """Return the sums over the mappings of `/proc/PID/smaps` whose file lies in `folder`."""
    sums = {"Size": 0, "Rss": 0, "Shared_Clean": 0, "Shared_Dirty": 0}
    # Only the parts that matter are read line by line: the whole has ten thousand lines, and a server waits meanwhile.
    for mapping in smaps.split(f" {folder}/")[1:]:
        for line in mapping.split("\n", _MAPPING_LINES)[1:]:
            name, colon, rest = line.partition(":")
            if not colon or " " in name:
                break  # the first line of the next mapping: range, permissions, offset, device, inode, path
            if name in sums:
                sums[name] += int(rest.split()[0]) * 1024
    return MappedFiles(sums["Size"], sums["Rss"], sums["Shared_Clean"] + sums["Shared_Dirty"])


def mapped_files(folder: Path) -> MappedFiles:
    """Return the sums for this process now; zeros where the kernel does not tell."""
    try:
        return parse_mapped_files(_read_in_steps(SMAPS), folder.resolve())
    except OSError:
        return MappedFiles()


def _read_in_steps(path: Path) -> str:
    """Return the text of a file whose reading keeps the kernel busy; may `pause` between its parts."""
    parts = []
    with path.open("rb", buffering=0) as file:
        while part := file.read(_STEP_BYTES):
            parts.append(part)
            pause()
    return b"".join(parts).decode()


def return_free_memory(kept_bytes: int = 0) -> None:
    """Give memory that the C allocator keeps free back to the system, where it can (glibc); takes about 1 ms.

    Up to `kept_bytes` at the end of the heap stay: beside traffic the next requests need them, and growing the heap
    waits for every reader of the memory map.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(kept_bytes)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process now, 0 where the kernel does not tell.

    The kernel's own count, which is at hand; adding it up over the mappings, as `smaps` does, takes many milliseconds.
    """
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
