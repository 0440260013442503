"""What the store holds, read in threads so that the event loop never waits for a disk."""

import asyncio
import logging
from collections.abc import Iterable

from model_store.errors import StoreError
from model_store.labels import Labels
from model_store.manifest import Manifest
from model_store.store import ModelStore
from service.models.inputs import read_fields
from service.wire.documents import FieldAnswer

logger = logging.getLogger("slimctr.catalog")


class Catalog:
    """Asynchronous reader of one store; what cannot be read is logged and left out, or stays as it was."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._labels: dict[str, Labels] = {}
        self._complaints: dict[str, str] = {}
        self.was_read = False
        """Whether the store could be listed so far."""
        self.unread: dict[str, str] = {}
        """Why the labels of a model could not be read so far."""

    async def models(self) -> list[str]:
        """Return the models that have a version; without those whose folder cannot be read now."""
        return sorted(await asyncio.to_thread(self._readable_models))

    async def versions(self, model: str) -> list[int]:
        """Return the versions of a model, oldest first; none when there is no such model."""
        return await asyncio.to_thread(self._store.versions, model)

    async def check(self, model: str, version: int) -> None:
        """Raise NotFound when there is no such version."""
        await asyncio.to_thread(self._store.path, model, version)

    async def labels(self) -> dict[str, Labels]:
        """Return the labels of every model; where they cannot be read or vanished, the last ones that were."""
        self._labels = await asyncio.to_thread(self._read_labels)
        return self._labels

    async def manifests(self, model: str) -> dict[int, Manifest | StoreError]:
        """Return the manifests of a model by version, or why one cannot be read."""
        return await asyncio.to_thread(self._read_manifests, model)

    async def fields(self, model: str, versions: Iterable[int]) -> dict[int, list[FieldAnswer]]:
        """Return what rows of these versions hold, none where the manifest is refused."""
        return await asyncio.to_thread(
            lambda: {version: read_fields(self._store, model, version) for version in versions}
        )

    def _read_labels(self) -> dict[str, Labels]:
        present = self._read_models()
        labels = {}
        for model in sorted(present | self._labels.keys()):
            found = self._read_labels_of(model)
            if found is not None and (found.labels or model in present):
                labels[model] = found
        return labels

    def _read_models(self) -> set[str]:
        try:
            models = self._readable_models()
            if not models and not self._store.exists():
                self._complain("", "store is not readable", "its folder is gone")
                return set()
        except OSError as error:
            self._complain("", "store is not readable", str(error))
            return set()
        self._complaints.pop("", None)
        self.was_read = True
        return models

    def _readable_models(self) -> set[str]:
        models = set()
        for name in self._store.folders():
            try:
                if self._store.versions(name):
                    models.add(name)
            except OSError as error:
                self._complain(name, "model is not readable", str(error))
                self.unread[name] = str(error)
        return models

    def _read_labels_of(self, model: str) -> Labels | None:
        """Return the labels as they are, as they were when they cannot be read, or None when they never were."""
        last = self._labels.get(model)
        try:
            found = self._store.labels(model)
        except (StoreError, OSError) as error:
            self._complain(model, "labels are not readable", str(error))
            if last is None:
                self.unread[model] = str(error)
            return last
        self.unread.pop(model, None)
        if last is not None and found == Labels() and last != Labels():
            # No command deletes a file of labels: its folder is gone, such as with a disk that was unmounted. A file
            # that was written by hand or another tool, without a revision, has labels.
            self._complain(model, "labels have vanished", "the last ones stay in force")
            return last
        self._complaints.pop(model, None)
        return found

    def _complain(self, model: str, event: str, detail: str) -> None:
        """Log a complaint once, not at every look."""
        if self._complaints.get(model) != detail:
            self._complaints[model] = detail
            logger.warning(event, extra={"model": model or None, "detail": detail})

    def _read_manifests(self, model: str) -> dict[int, Manifest | StoreError]:
        manifests: dict[int, Manifest | StoreError] = {}
        for number in self._store.versions(model):
            try:
                manifests[number] = self._store.manifest(model, number)
            except StoreError as error:
                manifests[number] = error
        return manifests
