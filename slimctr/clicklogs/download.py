"""Downloads public click logs: resumes where it stopped, and keeps nothing whose checksum is not the published one."""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slimctr.errors import ConfigError, SlimctrError
from slimctr.folders import sole_writer

CHUNK_BYTES = 1 << 18
ATTEMPTS = 3

Progress = Callable[[int, int], None]
"""Called after every chunk with the bytes on disk and the bytes in all."""


class DownloadError(SlimctrError):
    """A download that failed; what was received stays for the next attempt unless it was wrong."""


@dataclass(frozen=True)
class RemoteLog:
    """A zip archive at `base_url`/`archive` and the MD5 of the files wanted from it, by name."""

    base_url: str
    archive: str
    md5: dict[str, str]
    terms: str


REMOTE_LOGS = {
    "frappe": RemoteLog(
        base_url="https://huggingface.co/datasets/reczoo/Frappe_x1/resolve/main",
        archive="Frappe_x1.zip",
        md5={
            "train.csv": "ba7306e6c4fc19dd2cd84f2f0596d158",
            "valid.csv": "88d51bf2173505436d3a8f78f2a59da8",
            "test.csv": "3470f6d32713dc5f7715f198ca7c612a",
        },
        terms="research use only, no redistribution; cite Baltrunas et al. 2015, arXiv:1505.03014",
    ),
}


def download(
    log: RemoteLog,
    out: Path,
    base_url: str | None = None,
    timeout_seconds: float = 30.0,
    progress: Progress | None = None,
) -> list[Path]:
    """Put the files of `log` into `out` and return their paths; files that are there already are kept.

    Raises DownloadError when the server cannot be reached, breaks off ATTEMPTS times, or sends other bytes
    than published; ConfigError when another process downloads into `out`.
    """
    files = [out / name for name in log.md5]
    partial = _PartialFile(out / f".{log.archive}.part")
    if all(path.is_file() and _md5(path) == log.md5[path.name] for path in files):
        partial.discard()  # of a process that was killed once the files were in place
        return files
    url = f"{(base_url or log.base_url).rstrip('/')}/{log.archive}"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--base-url must be an http or https address, not {base_url}")
    with sole_writer(out):
        for _ in range(ATTEMPTS):
            if partial.fetch(url, timeout_seconds, progress or (lambda done, total: None)):
                break
        else:
            raise DownloadError(
                f"{url} broke off {ATTEMPTS} times, at {partial.size:,} bytes: run again to resume"
            )
        try:
            _extract(partial.path, partial.unpacked, log.md5, out)
        except (zipfile.BadZipFile, DownloadError) as error:
            partial.discard()
            raise DownloadError(
                f"{url}: {error}. The download was deleted: run again, or check the source"
            ) from error
        partial.discard()
    return files


class _PartialFile:
    """A download in progress on disk, with the server's version tag beside it."""

    def __init__(self, path: Path):
        self.path = path
        self.unpacked = path.with_name(f"{path.name}.unpacked")
        self._tag_path = path.with_name(f"{path.name}.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag_path.unlink(missing_ok=True)
        shutil.rmtree(self.unpacked, ignore_errors=True)

    def fetch(self, url: str, timeout_seconds: float, progress: Progress) -> bool:
        """Request what is missing and append it; return whether the file is complete."""
        start = self.size
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and self._tag_path.exists():
            headers["If-Range"] = self._tag_path.read_text()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=timeout_seconds
            ) as answer:
                return self._receive(answer, start, progress)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    # Everything was received before, or the file on the server is another one: its checksum decides.
                    if error.headers.get("Content-Range") == f"bytes */{start}":
                        return True
                    self.discard()
                    return False
                raise DownloadError(f"{url} answers {error.code} {error.reason}") from error
        except (http.client.HTTPException, TimeoutError, ConnectionError):
            return False
        except urllib.error.URLError as error:
            raise DownloadError(f"{url} cannot be reached: {error.reason}") from error

    def _receive(self, answer: http.client.HTTPResponse, start: int, progress: Progress) -> bool:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        start = start if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else 0
        if tag := answer.headers.get("ETag"):
            self._tag_path.write_text(tag)
        with self.path.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                progress(file.tell(), total)
        return not total or self.size == total


def _extract(archive: Path, staging: Path, md5: dict[str, str], out: Path) -> None:
    """Unpack the named files, check them all, then move them into place; raise DownloadError when one is wrong."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with zipfile.ZipFile(archive) as packed:
            members = {Path(name).name: name for name in packed.namelist() if not name.endswith("/")}
            for name, expected in md5.items():
                if name not in members:
                    raise DownloadError(f"the archive holds no {name}")
                with packed.open(members[name]) as source, (staging / name).open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                found = _md5(staging / name)
                if found != expected:
                    raise DownloadError(f"{name} has MD5 {found} instead of {expected}")
        for name in md5:
            (staging / name).replace(out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
