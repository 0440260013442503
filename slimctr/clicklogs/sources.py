"""Opens the files of a click log as byte streams, decompressed by content, and says how much has been read."""

import hashlib
import re
from pathlib import Path

import pyarrow as pa

from slimctr.clicklogs.layout_guess import guess_kind
from slimctr.errors import LogFormatError

COMPRESSION = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2"}
FIRST_LINE_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAGIC = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip", b"BZh": "bz2"}


class ByteSource:
    """The decompressed bytes of one file without its byte order mark; the first bytes tell how it is compressed."""

    def __init__(self, path: Path):
        try:
            self._file = pa.OSFile(str(path), "rb")
        except FileNotFoundError as error:
            raise LogFormatError(f"no click log at {path}") from error
        except OSError as error:
            raise LogFormatError(f"cannot open {path}: {error}") from error
        self._path = path
        self._bytes = max(self._file.size(), 1)
        head = self._file.read(4)
        self._file.seek(0)
        codec = next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)
        self._stream = pa.CompressedInputStream(self._file, codec) if codec else self._file
        self._is_start = True

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes or more, fewer at the end, none behind it.

        Raises LogFormatError for damaged content.
        """
        try:
            block: bytes = self._stream.read(size)
            if self._is_start:
                self._is_start = False
                while 0 < len(block) < len(_BYTE_ORDER_MARK) and (more := self._stream.read(size)):
                    block += more
                if block.startswith(_BYTE_ORDER_MARK):
                    block = block.removeprefix(_BYTE_ORDER_MARK) or self._stream.read(size)
        except OSError as error:
            raise LogFormatError(f"{self._path} cannot be decompressed: {error}") from error
        return block

    @property
    def fraction(self) -> float:
        """Share of the stored (compressed) bytes read so far, 0 to 1."""
        return 1.0 if self._file.closed else min(self._file.tell() / self._bytes, 1.0)

    def close(self) -> None:
        """Close the stream and the file."""
        self._stream.close()
        self._file.close()


def first_line(path: Path) -> str:
    """Return the first line that is not empty; raise LogFormatError when there is none or it is binary."""
    source = ByteSource(path)
    try:
        head = source.read(FIRST_LINE_BYTES)
    finally:
        source.close()
    lines = head.lstrip(b"\r\n")
    if not lines:
        raise LogFormatError(f"{path} is empty")
    line = re.split(rb"[\r\n]", lines, maxsplit=1)[0]
    kind = guess_kind(head)
    try:
        if b"\0" not in line and not kind:
            return line.decode()
    except UnicodeDecodeError:
        pass
    raise LogFormatError(
        f"the first line of {path} is not UTF-8 text. {kind or 'Is it binary, or in another encoding such as UTF-16?'}"
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the stored bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
