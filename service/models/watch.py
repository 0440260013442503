"""Notices that a file of a loaded version was written to, cut off or replaced."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from model_store.artifact import sha256
from model_store.errors import StoreError
from model_store.file_states import FileState
from model_store.manifest import FileEntry
from model_store.tensors import open_regular


class Found(NamedTuple):
    """What became of the files: why they may not be served any more, which are others now, and their states."""

    damage: str
    replaced: tuple[str, ...]
    states: dict[str, FileState]


def look_at(directory: Path, loaded: Mapping[str, FileState], listed: Mapping[str, FileEntry]) -> Found:
    """Compare the files of a version with what was `loaded`.

    A write into a file changes the memory that scores are read from: a file that is shorter, or whose digest is no
    longer the `listed` one, is damage. Only files whose state changed are hashed. A file that is gone or replaced by
    another leaves the memory as it was.
    """
    replaced, states = [], dict(loaded)
    for name, before in loaded.items():
        try:
            now = FileState.of((directory / name).lstat())
        except OSError:
            replaced.append(name)
            continue
        if now == before:
            continue
        if not now.is_same_file(before):
            replaced.append(name)
        elif now.size != before.size:
            return Found(f"{name} was changed in place: {now.size} bytes, not {before.size}", (), states)
        else:
            try:
                with open_regular(directory / name) as file:
                    digest = sha256(file)
            except (StoreError, OSError):
                continue  # gone by now, or not readable: the next look tries again
            if digest != listed[name].sha256:
                return Found(
                    f"{name} was overwritten in place: its sha256 is not that of the manifest", (), states
                )
            states[name] = now  # touched, or written with the same bytes
    return Found("", tuple(replaced), states)
