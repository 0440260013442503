"""Opens the files of a click log as byte streams, decompressed by suffix, and says how much has been read."""

import hashlib
from pathlib import Path

import pyarrow as pa

from slimctr.errors import LogFormatError

COMPRESSION = {".zst": "zstd", ".gz": "gzip", ".bz2": "bz2"}
FIRST_LINE_BYTES = 1 << 20


class ByteSource:
    """A readable, decompressed stream over one file; `fraction` is the share of the stored bytes consumed."""

    def __init__(self, path: Path):
        try:
            self._file = pa.OSFile(str(path), "rb")
        except FileNotFoundError as error:
            raise LogFormatError(f"no click log at {path}") from error
        except OSError as error:
            raise LogFormatError(f"cannot open {path}: {error}") from error
        self._bytes = max(self._file.size(), 1)
        codec = COMPRESSION.get(path.suffix)
        self.stream = pa.CompressedInputStream(self._file, codec) if codec else self._file

    @property
    def fraction(self) -> float:
        """Share of the stored (compressed) bytes read so far, 0 to 1."""
        return 1.0 if self._file.closed else min(self._file.tell() / self._bytes, 1.0)

    def close(self) -> None:
        """Close the stream and the file."""
        self.stream.close()
        self._file.close()


def first_line(path: Path) -> str:
    """Return the first line without its line end; raise LogFormatError when the file is empty or binary."""
    source = ByteSource(path)
    try:
        head = source.stream.read(FIRST_LINE_BYTES)
    except OSError as error:
        raise LogFormatError(f"{path} cannot be decompressed: {error}") from error
    finally:
        source.close()
    if not head:
        raise LogFormatError(f"{path} is empty")
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise LogFormatError(
            f"the first line of {path} is not UTF-8 text: is it compressed or binary?"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the stored bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
