"""Downloads from a real HTTP server on this machine that can stop in the middle, change its file or ignore ranges."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from slimctr.clicklogs.download import ATTEMPTS, REMOTE_LOGS, DownloadError, RemoteLog, download
from slimctr.errors import ConfigError

CONTENT = {
    name: f"label,user\r\n{name},1\r\n".encode() + np.random.default_rng(len(name)).bytes(200_000)
    for name in ("train.csv", "valid.csv", "test.csv")
}


def archive(content: dict[str, bytes], folder: str = "Log_x1/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in ({"README.md": b"hello"} | content).items():
            packed.writestr(zipfile.ZipInfo(folder + name), data)
    return buffer.getvalue()


@dataclass
class Site:
    """What the server does: the bytes it serves, after how many bytes each of the next answers breaks off."""

    body: bytes
    etag: str | None = '"v1"'
    ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def site() -> Site:
    return Site(archive(CONTENT))


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            if self.path != "/files/log.zip":
                return self.send_error(404)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            unchanged = self.headers.get("If-Range") in (None, site.etag)
            if wanted and site.ranges and unchanged and start >= len(site.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            partial = bool(wanted) and site.ranges and unchanged
            body = site.body[start:] if partial else site.body
            self.send_response(206 if partial else 200)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}")
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if site.break_after:
                body = body[: site.break_after.pop(0)]
            self.wfile.write(body)
            return None

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/files"
        server.shutdown()
        thread.join()


@pytest.fixture
def log(address: str) -> RemoteLog:
    return RemoteLog(
        address, "log.zip", {name: hashlib.md5(data).hexdigest() for name, data in CONTENT.items()}, ""
    )


def assert_complete(out: Path) -> None:
    assert {path.name: path.read_bytes() for path in out.iterdir()} == CONTENT


def test_files_arrive_with_their_line_ends_and_nothing_else_stays(log, site, tmp_path):
    seen = []
    files = download(log, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert [path.name for path in files] == ["train.csv", "valid.csv", "test.csv"]
    assert_complete(tmp_path / "out")
    assert seen[-1] == (len(site.body), len(site.body))


def test_an_archive_that_a_killed_process_left_beside_complete_files_is_removed(log, site, tmp_path):
    download(log, tmp_path / "out")
    for name in (".log.zip.part", ".log.zip.part.etag"):
        (tmp_path / "out" / name).write_bytes(site.body)
    (tmp_path / "out" / ".log.zip.part.unpacked").mkdir()
    download(log, tmp_path / "out")
    assert_complete(tmp_path / "out")


def test_complete_files_are_not_asked_for_again(log, site, tmp_path):
    download(log, tmp_path / "out")
    download(log, tmp_path / "out")
    assert site.asked == [None]


def test_a_missing_or_altered_file_is_downloaded_again(log, tmp_path):
    download(log, tmp_path / "out")
    (tmp_path / "out" / "test.csv").write_bytes(b"altered")
    download(log, tmp_path / "out")
    assert_complete(tmp_path / "out")


def test_an_interruption_is_resumed_where_it_stopped(log, site, tmp_path):
    site.break_after = [100_000, 70_000]
    download(log, tmp_path / "out")
    assert site.asked == [None, "bytes=100000-", "bytes=170000-"]
    assert_complete(tmp_path / "out")


def test_a_later_run_resumes_what_an_earlier_one_left(log, site, tmp_path):
    site.break_after = [50_000, 0, 0]
    with pytest.raises(
        DownloadError, match=f"broke off {ATTEMPTS} times, at 50,000 bytes: run again to resume"
    ):
        download(log, tmp_path / "out")
    download(log, tmp_path / "out")
    assert site.asked[-1] == "bytes=50000-"
    assert_complete(tmp_path / "out")


def test_a_server_without_ranges_starts_over(log, site, tmp_path):
    site.ranges = False
    site.break_after = [50_000]
    download(log, tmp_path / "out")
    assert_complete(tmp_path / "out")


def test_a_file_that_changed_in_between_starts_over(log, site, tmp_path):
    whole = site.body
    site.body, site.break_after = archive({"train.csv": b"old" * 90_000}), [300, 0, 0]
    with pytest.raises(DownloadError, match="broke off"):
        download(log, tmp_path / "out")
    site.body, site.etag = whole, '"v2"'
    download(log, tmp_path / "out")
    assert_complete(tmp_path / "out")


def test_everything_received_but_not_unpacked_is_not_fetched_again(log, site, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".log.zip.part").write_bytes(site.body)
    download(log, out)
    assert site.asked == [f"bytes={len(site.body)}-"]
    assert_complete(out)


def test_a_leftover_longer_than_the_file_is_thrown_away(log, site, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".log.zip.part").write_bytes(site.body + b"more")
    download(log, out)
    assert_complete(out)


def test_corruption_is_refused_deleted_and_curable(log, site, tmp_path):
    good = site.body
    site.body = archive(CONTENT | {"valid.csv": b"label,user\r\n"})
    with pytest.raises(DownloadError, match=r"valid\.csv has MD5 .* instead of .* deleted"):
        download(log, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    site.body = good
    download(log, tmp_path / "out")
    assert_complete(tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>not a zip</html>", "not a zip file"),
        (archive({"train.csv": CONTENT["train.csv"]}), r"holds no valid\.csv"),
        (archive(CONTENT)[:-4_000] + bytes(4_000), "zip|central directory"),
    ],
)
def test_what_is_no_such_archive_is_refused(log, site, tmp_path, body, message):
    site.body = body
    with pytest.raises(DownloadError, match=message):
        download(log, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_flipped_bits_inside_the_archive_are_refused(log, site, tmp_path):
    site.body = site.body[:300_000] + bytes(100) + site.body[300_100:]
    with pytest.raises(DownloadError, match="deleted"):
        download(log, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_absent_files_and_servers_are_named(log, address, tmp_path):
    with pytest.raises(DownloadError, match=r"/elsewhere/log\.zip answers 404"):
        download(log, tmp_path / "out", base_url=f"{address}/elsewhere/")
    with pytest.raises(DownloadError, match="cannot be reached"):
        download(log, tmp_path / "out", base_url="http://127.0.0.1:1/files")
    with pytest.raises(ConfigError, match="http or https"):
        download(log, tmp_path / "out", base_url="file:///etc")


def test_frappe_is_the_published_one():
    frappe = REMOTE_LOGS["frappe"]
    assert frappe.base_url.startswith("https://")
    assert frappe.md5["test.csv"] == "3470f6d32713dc5f7715f198ca7c612a"
