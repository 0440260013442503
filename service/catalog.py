"""What the store holds, read in threads so that the event loop never waits for a disk."""

import asyncio
import logging

from model_store.errors import StoreError
from model_store.labels import Labels
from model_store.manifest import Manifest
from model_store.store import ModelStore

logger = logging.getLogger("slimctr.catalog")


class Catalog:
    """Asynchronous reader of one store; what cannot be read is logged and left out, or stays as it was."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._labels: dict[str, Labels] = {}

    async def models(self) -> list[str]:
        """Return the models that have a version."""
        return await asyncio.to_thread(self._store.models)

    async def versions(self, model: str) -> list[int]:
        """Return the versions of a model, oldest first; none when there is no such model."""
        return await asyncio.to_thread(self._store.versions, model)

    async def check(self, model: str, version: int) -> None:
        """Raise NotFound when there is no such version."""
        await asyncio.to_thread(self._store.path, model, version)

    async def labels(self) -> dict[str, Labels]:
        """Return the labels of every model; those of a file that cannot be read are the last ones that could."""
        self._labels = await asyncio.to_thread(self._read_labels)
        return self._labels

    async def manifests(self, model: str) -> dict[int, Manifest]:
        """Return the manifests of a model by version, without those that cannot be read."""
        return await asyncio.to_thread(self._read_manifests, model)

    def _read_labels(self) -> dict[str, Labels]:
        labels = {}
        for model in self._store.models():
            try:
                labels[model] = self._store.labels(model)
            except StoreError as error:
                logger.warning("labels are not readable", extra={"model": model, "detail": str(error)})
                if model in self._labels:
                    labels[model] = self._labels[model]
        return labels

    def _read_manifests(self, model: str) -> dict[int, Manifest]:
        manifests = {}
        for number in self._store.versions(model):
            try:
                manifests[number] = self._store.manifest(model, number)
            except StoreError as error:
                logger.warning(
                    "manifest is not readable",
                    extra={"model": model, "version": number, "detail": str(error)},
                )
        return manifests
