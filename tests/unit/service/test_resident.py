import mmap
from pathlib import Path

import pytest

from service import resident

SMAPS = """\
7f0000000000-7f0000010000 r--s 00000000 08:01 1 /models/ctr/1/tables.safetensors
Size:                 64 kB
Rss:                  16 kB
Shared_Clean:          8 kB
Shared_Dirty:          0 kB
VmFlags: rd mr me
7f0000010000-7f0000020000 r--s 00000000 08:01 2 /models/ctr/12/tables.safetensors
Size:                 64 kB
Rss:                  64 kB
7f0000020000-7f0000030000 rw-p 00000000 00:00 0
Size:                 64 kB
Rss:                  64 kB
7f0000030000-7f0000032000 r--s 00001000 08:01 3 /models/ctr/1/a file.safetensors
Size:                  8 kB
Rss:                   4 kB
Shared_Dirty:          4 kB
"""


def test_only_the_files_of_one_version_are_counted() -> None:
    found = resident.parse_mapped_files(SMAPS, Path("/models/ctr/1"))
    assert found == resident.MappedFiles(mapped=72 * 1024, resident=20 * 1024, shared=12 * 1024)


def test_a_mapped_file_is_resident_once_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        found = resident.mapped_files(tmp_path)
    assert found.mapped >= 1_000_000
    assert found.resident >= 1_000_000
    assert resident.mapped_files(tmp_path).mapped == 0


def test_nothing_is_reported_where_the_kernel_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resident.anonymous_bytes() > 0
    monkeypatch.setattr(resident, "SMAPS", tmp_path / "absent")
    monkeypatch.setattr(resident, "STATUS", tmp_path / "absent")
    assert resident.mapped_files(tmp_path) == resident.MappedFiles()
    assert resident.anonymous_bytes() == 0
