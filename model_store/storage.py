"""Where a store keeps its files: one directory of this machine."""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store.errors import IntegrityError, NotFound, StoreError
from model_store.local_path import remote_fault
from model_store.names import LABELS_FILE
from model_store.scratch import scratch
from model_store.seal import SEAL_SUFFIX, seal_path
from model_store.tensors import open_regular

STAGED = ".publish-"


class LocalStorage:
    """Files under one directory. Paths are relative, parts joined by '/', already checked by the caller."""

    def __init__(self, root: Path | str) -> None:
        if fault := remote_fault(root):
            raise StoreError(f"store {fault}")
        self._root = Path(root).absolute()

    def exists(self) -> bool:
        """Return whether the root is a folder."""
        return self._root.is_dir()

    def folders(self, path: str) -> list[str]:
        """Return the names of the real folders in `path`, hidden ones too; none when `path` is absent."""
        try:
            with os.scandir(self._root / path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

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
        try:
            write_flushed(temporary, data)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)

    @contextmanager
    def staging(self, parent: str) -> Iterator[Path]:
        """Give a new hidden folder inside `parent`, so that the later rename stays on one file system.

        What is not committed is gone at the end of the block. What killed publishers left is removed first.
        """
        folder = self._root / parent
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self._root)
        with scratch(folder, STAGED) as staged:
            with self.locked(parent):
                _sweep_files(folder)
            try:
                yield staged
            finally:
                seal_path(staged).unlink(missing_ok=True)

    def commit(self, staged: Path, path: str) -> bool:
        """Make the staged folder appear at `path`, whole or not at all, then the seal beside it; False when taken."""
        target = self._root / path
        with self.locked(str(Path(path).parent)):
            try:
                # the kernel refuses to rename a folder over one that is not empty, so of two publishers one loses
                staged.rename(target)
            except OSError as problem:
                if problem.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    return False
                raise
            sync_folder(target.parent)
            seal_path(staged).replace(seal_path(target))
            sync_folder(target.parent)
        return True

    def discard(self, path: str, tombstone: str) -> None:
        """Take a folder out of sight as `tombstone`, then delete its files and its seal; the empty tombstone stays."""
        hidden = self._root / tombstone
        (self._root / path).rename(hidden)
        sync_folder(hidden.parent)
        seal_path(self._root / path).unlink(missing_ok=True)
        for entry in hidden.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def local(self, path: str) -> Path:
        """Return the folder of `path`; raise NotFound without, IntegrityError when a part of it is a link."""
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


def _sweep_files(folder: Path) -> None:
    """Remove seals and labels that killed processes were writing. Whoever writes either holds the folder meanwhile."""
    for path in folder.glob(f"{STAGED}*{SEAL_SUFFIX}"):
        if not path.with_name(path.name.removesuffix(SEAL_SUFFIX)).exists():
            path.unlink(missing_ok=True)
    for path in folder.glob(f".{LABELS_FILE}-*"):
        path.unlink(missing_ok=True)


def write_flushed(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
