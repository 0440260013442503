"""Opens the labeled versions of a store ahead of the service that will serve them.

Hashing the files of a large version takes longer than all else of a start. It holds no interpreter lock, so it goes on
in a thread while the application is imported. Nothing here may import that application.
"""

import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from model_store.artifact import Artifact
from model_store.errors import StoreError
from model_store.store import ModelStore

if TYPE_CHECKING:
    from service.loader import Opened

Key = tuple[str, int]


class Verified(NamedTuple):
    """An artifact whose files were hashed through the handles that it holds, and the seconds that took."""

    artifact: Artifact
    seconds: float


def verify(store: ModelStore, key: Key) -> Verified:
    """Open a version; raise as `ModelStore.open` does."""
    begin = time.perf_counter()
    return Verified(store.open(*key), time.perf_counter() - begin)


class Ahead:
    """The labeled versions of a store: each is being verified from now on, and handed out once.

    What cannot be opened is left out: the loader meets the same fault, and reports it.
    """

    def __init__(self, root: Path) -> None:
        self.opened: dict[Key, Opened] = {}
        store = ModelStore(root)
        self._verified: dict[Key, Future[Verified]] = {key: Future() for key in _labeled(store)}
        tasks = list(self._verified.items())
        self._thread = threading.Thread(
            target=_verify_all, args=(store, tasks), name="slimctr-ahead", daemon=True
        )
        self._thread.start()

    def pending(self) -> list[Key]:
        """Return the versions that are not opened and that nobody took yet."""
        return sorted(self._verified)

    def take(self, key: Key) -> Verified | None:
        """Return a version once its files are hashed; None when it is not among the labeled or has a fault."""
        future = self._verified.pop(key, None)
        if future is None or future.cancelled() or future.exception() is not None:
            return None
        return future.result()

    def keep(self, keys: Collection[Key]) -> None:
        """Let go of every other version."""
        for key in self._verified.keys() - set(keys):
            future = self._verified.pop(key)
            if not future.cancel():
                future.add_done_callback(_close)
        for key in self.opened.keys() - set(keys):
            self.opened.pop(key).scorer.close()

    def close(self) -> None:
        """Let go of everything that nobody took; waits for the version that is being hashed."""
        self.keep(())
        self._thread.join()


def _verify_all(store: ModelStore, tasks: Iterable[tuple[Key, "Future[Verified]"]]) -> None:
    for key, future in tasks:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(verify(store, key))
            except Exception as error:  # the loader's to report
                future.set_exception(error)


def _close(future: "Future[Verified]") -> None:
    if future.exception() is None:
        future.result().artifact.close()


def _labeled(store: ModelStore) -> list[Key]:
    """Return all versions that a label names, in the order in which they will be loaded."""
    found: list[Key] = []
    try:
        for model in store.models():
            labels = store.labels(model).labels
            found += [(model, number) for number in sorted({int(number) for number in labels.values()})]
    except (StoreError, OSError):
        return found  # the pool reads the labels again, and complains
    return found
