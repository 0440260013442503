"""The store: publishes immutable versions, moves labels, verifies and removes."""

import hashlib
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from model_store.artifact import Artifact, open_artifact, parse_manifest, read_manifest
from model_store.errors import Conflict, NotFound, StoreError
from model_store.file_states import FileState, file_states
from model_store.labels import Labels, parse_labels
from model_store.manifest import Draft, FileEntry, Manifest
from model_store.names import FILE, LABEL, LABELS_FILE, MANIFEST_FILE, MODEL, VERSION
from model_store.seal import SEAL_SUFFIX, seal_of, seal_path
from model_store.storage import LocalStorage, sync_folder, write_flushed
from model_store.tensors import open_regular

_COPY_BYTES = 1024 * 1024
_TOMBSTONE = ".removed-"
DEFAULT_LABEL = "stable"


class ModelStore:
    """Models under one root directory, laid out as docs/artifact-format.md says.

    Several processes may use one root: publishers get distinct versions, label changes wait for each other.
    """

    def __init__(self, root: Path | str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._root = root
        self._storage = LocalStorage(root)
        self._now = now

    def exists(self) -> bool:
        """Return whether the root is there; a disk may be unmounted."""
        return self._storage.exists()

    def models(self) -> list[str]:
        """Return the names of the models that have a version, in alphabetical order."""
        return [name for name in self.folders() if self.versions(name)]

    def folders(self) -> list[str]:
        """Return the names of the folders that may be models, in alphabetical order; whether they can be read or not."""
        return [name for name in self._storage.folders("") if MODEL.fits(name)]

    def versions(self, model: str) -> list[int]:
        """Return the versions of `model`, oldest first; none when there is no such model."""
        names = self._storage.folders(MODEL.check(model))
        return sorted(int(name) for name in names if VERSION.fits(name))

    def path(self, model: str, version: int) -> Path:
        """Return the directory of a version; raise NotFound when it is absent, IntegrityError for a link."""
        folder = f"{MODEL.check(model)}/{VERSION.check(str(version))}"
        try:
            return self._storage.local(folder)
        except NotFound:
            raise NotFound(f"model '{model}' has no version {version}; {self._choices(model)}") from None

    def manifest(self, model: str, version: int) -> Manifest:
        """Return the manifest of a version without hashing its files.

        Raises ManifestError for a bad one, IntegrityError for that of another version or one that was edited.
        """
        return read_manifest(self.path(model, version), (model, version))[0]

    def is_sealed(self, model: str, version: int) -> bool:
        """Say whether a version has a seal; raise as `manifest` does."""
        return read_manifest(self.path(model, version), (model, version))[1]

    def open(self, model: str, version: int) -> Artifact:
        """Open a version and hash every file; raise NotFound, IntegrityError or ManifestError."""
        return open_artifact(self.path(model, version).resolve(), (model, version))

    def file_states(self, model: str, version: int) -> dict[str, FileState]:
        """Return the states of the files of a version and of its seal, nothing when it is not there."""
        try:
            return file_states(self.path(model, version).resolve())
        except (StoreError, OSError):
            return {}

    def seal(self, model: str, version: int) -> None:
        """Write the seal of a version that has none; raise as `open` does, after which nothing is sealed."""
        with self.open(model, version) as artifact:
            if artifact.is_sealed:
                return
            manifest = (artifact.directory / MANIFEST_FILE).read_bytes()
            self._storage.replace(f"{model}/{version}{SEAL_SUFFIX}", seal_of(manifest, str(version)))

    def resolve(self, reference: str) -> tuple[str, int]:
        """Return (model, version) of `name`, `name@version` or `name@label`.

        A bare name means the label `stable`, or the newest version without that label. Raises NotFound.
        """
        model, separator, selector = reference.partition("@")
        MODEL.check(model)
        versions = self.versions(model)
        if not versions:
            raise self._no_model(model)
        labels = self.labels(model).labels
        if not separator:
            version = int(labels.get(DEFAULT_LABEL, versions[-1]))
        elif VERSION.fits(selector):
            version = int(selector)
        else:
            if LABEL.check(selector) not in labels:
                raise NotFound(f"model '{model}' has no label '{selector}'; {self._choices(model)}")
            version = int(labels[selector])
        if version not in versions:
            raise NotFound(f"model '{model}' has no version {version}; {self._choices(model)}")
        return model, version

    def labels(self, model: str) -> Labels:
        """Return the labels of `model`, none at revision 0 before the first was set."""
        path = f"{MODEL.check(model)}/{LABELS_FILE}"
        data = self._storage.read(path)
        return Labels() if data is None else parse_labels(data, path)

    def set_label(self, model: str, label: str, version: int, expected_revision: int | None = None) -> Labels:
        """Point `label` to `version` in one step and return the labels after it.

        Raises NotFound for an unknown version and Conflict when `expected_revision` is given and is not the
        current one. A label that points there already keeps its revision.
        """
        LABEL.check(label)
        self.path(model, version)
        with self._storage.locked(model):
            self.path(model, version)
            return self._change_labels(model, lambda labels: labels.moved(label, version), expected_revision)

    def remove_label(self, model: str, label: str, expected_revision: int | None = None) -> Labels:
        """Remove `label` and return the labels after it; raise NotFound or Conflict as `set_label` does."""
        LABEL.check(label)
        if not self.versions(model):
            raise self._no_model(model)
        with self._storage.locked(model):
            return self._change_labels(model, lambda labels: labels.without(label), expected_revision)

    def verify(self, model: str, version: int) -> Manifest:
        """Hash every file of a version and return its manifest; raise IntegrityError or ManifestError."""
        with self.open(model, version) as artifact:
            return artifact.manifest

    def remove(self, model: str, version: int) -> None:
        """Delete a version; its number is never used again. Raises Conflict while a label points to it."""
        self.path(model, version)
        with self._storage.locked(model):
            self.path(model, version)
            labels = self.labels(model).pointing_to(version)
            if labels:
                raise Conflict(
                    f"{model}/{version} is labeled {', '.join(labels)}; move or remove the label first"
                )
            self._storage.discard(f"{model}/{version}", f"{model}/{_TOMBSTONE}{version}")

    def publish(
        self, model: str, directory: Path, draft: Draft, gate: Callable[[Path], None] | None = None
    ) -> int:
        """Copy the files of `directory` into the store as the next version of `model` and return its number.

        The version appears whole or not at all, its seal right after it. `gate` sees the finished version directory
        before anyone else can; when it raises, nothing is published. Raises IntegrityError when `directory` holds
        anything but regular files and ManifestError when a file that the format requires is missing.
        """
        MODEL.check(model)
        with self._storage.staging(model) as staged:
            files = _copy_files(directory, staged)
            version = self._next_version(model)
            self._complete(staged, draft, model, version, files)
            if gate is not None:
                gate(staged)
            while not self._storage.commit(staged, f"{model}/{version}"):
                version = self._next_version(model)
                self._complete(staged, draft, model, version, files)
            return version

    def _complete(
        self, staged: Path, draft: Draft, model: str, version: int, files: dict[str, FileEntry]
    ) -> None:
        """Write manifest and seal of a staged version; the manifest is read back through the strict parser."""
        manifest = Manifest(
            **dict(draft),
            model=model,
            version=str(version),
            created=self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            files=files,
        )
        data = manifest.model_dump_json(indent=1).encode() + b"\n"
        parse_manifest(data, f"{model}/{version}")
        write_flushed(staged / MANIFEST_FILE, data)
        sync_folder(staged)
        write_flushed(seal_path(staged), seal_of(data, str(version)))

    def _change_labels(
        self, model: str, change: Callable[[Labels], Labels], expected_revision: int | None
    ) -> Labels:
        before = self.labels(model)
        if expected_revision is not None and expected_revision != before.revision:
            raise Conflict(
                f"the labels of '{model}' are at revision {before.revision}, not {expected_revision}; "
                "read them again"
            )
        after = change(before)
        if after is not before:
            self._storage.replace(f"{model}/{LABELS_FILE}", after.model_dump_json().encode() + b"\n")
        return after

    def _next_version(self, model: str) -> int:
        names = (name.removeprefix(_TOMBSTONE) for name in self._storage.folders(model))
        return 1 + max((int(name) for name in names if VERSION.fits(name)), default=0)

    def _no_model(self, model: str) -> NotFound:
        if not self.exists():
            return NotFound(f"there is no model '{model}': there is no store at '{self._root}'")
        return NotFound(f"there is no model '{model}'; models: {', '.join(self.models()) or 'none'}")

    def _choices(self, model: str) -> str:
        versions = ", ".join(map(str, self.versions(model))) or "none"
        labels = ", ".join(f"{name} → {target}" for name, target in sorted(self.labels(model).labels.items()))
        return f"versions: {versions}; labels: {labels or 'none'}"


def _copy_files(directory: Path, staged: Path) -> dict[str, FileEntry]:
    """Copy every file of `directory` to `staged`, read-only and flushed to disk; return their entries."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as problem:
        raise StoreError(f"{directory}: cannot be listed ({problem.strerror})") from None
    files = {}
    for entry in entries:
        FILE.check(entry.name)
        digest = hashlib.sha256()
        size = 0
        with open_regular(Path(entry.path)) as source, (staged / entry.name).open("xb") as target:
            while block := source.read(_COPY_BYTES):
                digest.update(block)
                size += len(block)
                target.write(block)
            target.flush()
            os.fchmod(target.fileno(), stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
            os.fsync(target.fileno())
        files[entry.name] = FileEntry(sha256=digest.hexdigest(), bytes=size)
    return files
