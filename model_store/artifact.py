"""Opens one version directory: its manifest, and every file hashed through the handle it is read from."""

import hashlib
import mmap
import os
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from model_store.errors import (
    Absence,
    IntegrityError,
    InvalidName,
    ManifestError,
    MissingFile,
    MissingManifest,
)
from model_store.file_states import FileState
from model_store.manifest import SCHEMA_VERSION, Manifest
from model_store.names import FILE, MANIFEST_FILE
from model_store.pacing import is_paced, pause
from model_store.seal import check_seal
from model_store.strict_json import parse_object
from model_store.tensors import Array, map_open_tensors, open_regular

TABLES_FILE = "tables.safetensors"
VOCABULARY_FILE = "vocabulary.safetensors"
GOLDEN_FILE = "golden.safetensors"
NETWORK_FILE = "network.onnx"
GOLDEN_VALUES_FILE = "golden.json"  # not in versions that were published before it existed
REQUIRED_FILES = (TABLES_FILE, NETWORK_FILE, VOCABULARY_FILE, GOLDEN_FILE)

_MAX_MANIFEST_BYTES = 16 * 1024 * 1024
# While a start imports its modules, each block waits for the interpreter: they are few, unless requests are served.
_HASH_BYTES = 4 * 1024 * 1024
_PACED_HASH_BYTES = 256 * 1024


class Artifact:
    """A verified version: files keep the handles that were hashed until `close`, maps live on after it.

    `is_sealed` says whether a seal beside the folder vouches for the manifest, too; `states` are those of the files
    when they were opened.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        files: dict[str, BufferedReader],
        is_sealed: bool,
        states: dict[str, FileState],
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.is_sealed = is_sealed
        self.states = states
        self._files = files

    def tensors(self, name: str) -> dict[str, Array]:
        """Return the tensors of the file `name` over a memory map; raise as `map_tensors` does."""
        return map_open_tensors(self._files[name], name)

    def read(self, name: str) -> bytes:
        """Return the bytes of the file `name`."""
        file = self._files[name]
        file.seek(0)
        return file.read()

    def digest_after(self, prefix: bytes, name: str) -> str:
        """Return the sha256 of `prefix` and the bytes of the file `name` in hexadecimal; reads the file once more."""
        file = self._files[name]
        file.seek(0)
        return sha256(file, prefix)

    def close(self) -> None:
        """Close the handles."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_artifact(directory: Path, identity: tuple[str, int] | None = None) -> Artifact:
    """Open `directory` and check that it holds exactly what its manifest lists, byte for byte.

    Raises ManifestError for a manifest that is not well-formed; IntegrityError for one that is not of the model and
    version `identity` or not the one that was sealed, and for a missing, extra, altered or special file. The error is
    an Absence, too, where a file is missing or short, such as that of a version which is being copied.
    """
    manifest, is_sealed = read_manifest(directory, identity)
    check_file_set(directory, manifest.files)
    files: dict[str, BufferedReader] = {}
    states: dict[str, FileState] = {}
    try:
        for name, entry in manifest.files.items():
            files[name] = open_regular(directory / name)
            states[name] = FileState.of(os.fstat(files[name].fileno()))
            size = states[name].size
            if size != entry.bytes:
                kind = MissingFile if size < entry.bytes else IntegrityError
                raise kind(f"{directory / name}: {size} bytes where the manifest says {entry.bytes}")
        for name, entry in manifest.files.items():
            digest = sha256(files[name])
            if digest != entry.sha256:
                raise IntegrityError(
                    f"{directory / name}: altered, its sha256 is {digest[:16]}… where the manifest says "
                    f"{entry.sha256[:16]}…; copy it again from where the version was published, or publish again"
                )
    except BaseException:
        for file in files.values():
            file.close()
        raise
    return Artifact(directory, manifest, files, is_sealed, states)


def sha256(file: BufferedReader, prefix: bytes = b"") -> str:
    """Return the digest of `prefix` and an open file in hexadecimal; may `pause` between its blocks."""
    digest = hashlib.sha256(prefix)
    # not from the C allocator, which would keep blocks of this size from then on
    with (
        mmap.mmap(-1, _PACED_HASH_BYTES if is_paced() else _HASH_BYTES) as buffer,
        memoryview(buffer) as block,
    ):
        while size := file.readinto(block):
            with block[:size] as part:
                digest.update(part)
            pause()
    return digest.hexdigest()


def read_manifest(directory: Path, identity: tuple[str, int] | None = None) -> tuple[Manifest, bool]:
    """Return the manifest of a version directory and whether it is sealed; no other file is read.

    Raises ManifestError when it is not well-formed, IntegrityError when it is not of the model and version `identity`,
    or not the one that was sealed.
    """
    try:
        with open_regular(directory / MANIFEST_FILE) as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
    except IntegrityError as problem:
        kind = MissingManifest if isinstance(problem, Absence) else ManifestError
        raise kind(f"{directory}: {problem}") from None
    manifest = parse_manifest(data, str(directory / MANIFEST_FILE))
    if identity is not None and (manifest.model, manifest.version) != (identity[0], str(identity[1])):
        raise IntegrityError(
            f"{directory / MANIFEST_FILE}: this folder is {identity[0]}/{identity[1]}, its manifest is that of "
            f"{manifest.model}/{manifest.version}; copy the right version here, or publish again"
        )
    return manifest, check_seal(directory, data, manifest.version)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return what a manifest says; raise ManifestError naming `where` and the key that is wrong."""
    if len(data) > _MAX_MANIFEST_BYTES:
        raise ManifestError(f"{where}: over {_MAX_MANIFEST_BYTES} bytes")
    try:
        document = parse_object(data)
    except ValueError as problem:
        raise ManifestError(f"{where}: {problem}") from None
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ManifestError(
            f"{where}: schema version {document.get('schema_version')!r}; this reader knows {SCHEMA_VERSION}"
        )
    pause()
    try:
        manifest = Manifest.model_validate_json(data, strict=True)
        pause()
        for name in manifest.files:
            FILE.check(name)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"{where}: {place}: {first['msg']}") from None
    except InvalidName as problem:
        raise ManifestError(f"{where}: files: {problem}") from None
    missing = [name for name in REQUIRED_FILES if name not in manifest.files]
    if missing:
        raise ManifestError(f"{where}: files: {', '.join(missing)} is not listed")
    return manifest


def check_file_set(directory: Path, listed: Iterable[str]) -> None:
    """Raise IntegrityError unless `directory` holds exactly the manifest and the listed names."""
    try:
        present = {entry.name for entry in os.scandir(directory)} - {MANIFEST_FILE}
    except OSError as problem:
        raise MissingFile(f"{directory}: cannot be listed ({problem.strerror})") from None
    expected = set(listed)
    if present != expected:
        fault = [f"missing {name}" for name in sorted(expected - present)]
        fault += [f"not in the manifest: {name}" for name in sorted(present - expected)]
        kind = MissingFile if expected - present else IntegrityError
        raise kind(f"{directory}: {'; '.join(fault)}")
