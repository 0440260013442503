"""Where a store keeps its files: a small protocol, and the local directory behind it."""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import fsspec

from model_store.errors import IntegrityError, NotFound, StoreError
from model_store.tensors import open_regular


class Storage(Protocol):
    """Files under one root. Paths are relative, parts joined by '/', already checked by the caller."""

    def folders(self, path: str) -> list[str]:
        """Return the names of the real folders in `path`, hidden ones too; none when `path` is absent."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, or None when it is absent."""

    def replace(self, path: str, data: bytes) -> None:
        """Write a file so that every reader sees the old or the new content, also after a crash."""

    def stage(self, parent: str) -> Path:
        """Return a new empty hidden folder on this machine whose content `commit` can move into `parent`."""

    def commit(self, staged: Path, path: str) -> bool:
        """Make a staged folder appear at `path`, whole or not at all; return False when `path` is taken."""

    def discard(self, path: str, tombstone: str) -> None:
        """Take a folder out of sight as `tombstone`, then delete what it holds; the empty tombstone stays."""

    def local(self, path: str) -> Path:
        """Return a folder on this machine that holds the files of `path`; raise NotFound without."""

    def locked(self, path: str) -> AbstractContextManager[None]:
        """Keep other processes that lock `path` out for the length of a `with` block."""


class LocalStorage:
    """A directory of this machine. Listing, reading and deleting go through fsspec; what must survive a crash
    or be atomic (fsync, rename, lock) is the operating system's own call, which fsspec does not offer.
    """

    def __init__(self, root: Path | str) -> None:
        if "://" in str(root):
            raise StoreError(
                f"{root}: only a local directory can be a store; copy the store to this machine first"
            )
        self._root = Path(root).absolute()
        self._files: Any = fsspec.filesystem("file")

    def folders(self, path: str) -> list[str]:
        """Return the names of the real folders in `path`, hidden ones too; none when `path` is absent."""
        try:
            entries = self._files.ls(str(self._root / path), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(
            entry["name"].rsplit("/", 1)[-1]
            for entry in entries
            if entry["type"] == "directory" and not entry["islink"]
        )

    def read(self, path: str) -> bytes | None:
        """Return the content of a regular file, or None when it is absent."""
        if not os.path.lexists(self._root / path):
            return None
        with open_regular(self._root / path) as file:
            return file.read()

    def replace(self, path: str, data: bytes) -> None:
        """Write a sibling, fsync it, rename it over `path`, fsync the folder."""
        target = self._root / path
        temporary = target.with_name(f".{target.name}-{secrets.token_hex(8)}")
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)

    def stage(self, parent: str) -> Path:
        """Return a new hidden folder inside `parent`, so that the later rename stays on one file system."""
        staged = self._root / parent / f".publish-{secrets.token_hex(8)}"
        staged.mkdir(parents=True)
        sync_folder(self._root)
        return staged

    def commit(self, staged: Path, path: str) -> bool:
        """Rename the staged folder to `path`, fsync the folder around it; return False when taken."""
        try:
            # the kernel refuses to rename a folder over one that is not empty, so of two publishers one loses
            staged.rename(self._root / path)
        except OSError as problem:
            if problem.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        sync_folder((self._root / path).parent)
        return True

    def discard(self, path: str, tombstone: str) -> None:
        """Rename the folder to `tombstone`, then delete its files."""
        hidden = self._root / tombstone
        (self._root / path).rename(hidden)
        sync_folder(hidden.parent)
        for entry in self._files.ls(str(hidden), detail=False):
            self._files.rm(entry, recursive=True)

    def local(self, path: str) -> Path:
        """Return the folder itself; raise IntegrityError when it or a folder above it is a link."""
        folder = self._root
        for part in path.split("/"):
            folder = folder / part
            if folder.is_symlink():
                raise IntegrityError(f"{path}: a link is refused in a store; copy the files instead")
            if not folder.is_dir():
                raise NotFound(f"{path} does not exist in the store {self._root}")
        return folder

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        """Hold an exclusive lock on the folder `path`."""
        descriptor = os.open(self._root / path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
