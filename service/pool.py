"""The pool of loaded versions: follows the labels of the store, loads in the background, swaps without a gap.

Everything here runs on the event loop and none of it waits for a disk. One rule moves it:
`_reconcile` compares what labels, experiments and requests want with what is loaded, and starts what is missing.
It runs after every look at the labels and after every finished load, so it may be called at any time.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from model_store.labels import Labels
from model_store.store import DEFAULT_LABEL, ModelStore
from service.ahead import Ahead, Key
from service.batching import Compute
from service.catalog import Catalog
from service.errors import LoadFailed, NotReady, UnknownName, VersionInUse
from service.instruments import VersionInstruments
from service.loader import Loader
from service.models.default_model import agreed_default, is_decided
from service.models.watch import Found, look_at
from service.settings import Settings
from service.statistics import Statistics
from service.telemetry.metrics import Metrics
from service.versions import State, Version
from slimctr.features import FeatureSchema
from slimctr.scoring import Scorer

# How often resident bytes are read again: the kernel walks the page tables for it.
MEMORY_REFRESH_SECONDS = 15.0

NOT_LOOKED = "the labels of the store were not read yet"

logger = logging.getLogger("slimctr.pool")


class Pool:
    """Loaded versions and the labels that lead to them."""

    def __init__(
        self,
        settings: Settings,
        store: ModelStore,
        metrics: Metrics,
        compute: Compute,
        ahead: Ahead | None = None,
        workers_folder: Path | None = None,
    ) -> None:
        """`workers_folder` is what the workers of a service share, in which they agree on the default model."""
        self.catalog = Catalog(store)
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._loader = Loader(settings, store, metrics, compute, ahead)
        self._versions: dict[Key, Version] = {}
        self._labels: dict[str, Labels] = {}
        self._routes: dict[str, dict[str, int]] = {}
        self._bound: frozenset[Key] = frozenset()
        self._asked: set[Key] = set()
        self._unloaded: set[str] = set()
        self._served: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._loading = asyncio.Lock()
        self._looked = False
        self._was_ready = False
        self._default_model = settings.default_model
        self._default_is_fixed = settings.default_model is not None
        self._workers_folder = workers_folder
        self._memory_read_s = 0.0

    # What requests ask

    def models(self) -> list[str]:
        """Return the models that have a label or a version here."""
        return sorted(
            {model for model, _ in self._versions} | {m for m, routes in self._routes.items() if routes}
        )

    def default_model(self) -> str:
        """Return the configured model, else the only one; raise UnknownName or NotReady when that is no answer.

        Once the service was ready this does not change: models that get their first label later are asked for by name.
        """
        if self._default_model is not None:
            return self._default_model
        if not self._default_is_fixed and len(self._served) == 1:
            return self._served[0]
        if not self._looked:
            raise NotReady(NOT_LOOKED)
        served = ", ".join(self._served) or "none"
        raise UnknownName(f"name a model: default_model is not set and the served models are {served}")

    def version(self, model: str, number: int) -> Version:
        """Return a version that is loaded or on its way; raise UnknownName."""
        found = self._versions.get((model, number))
        if found is None:
            if model not in self._labels and model not in self.models():
                raise self._not_served(model)
            raise UnknownName(
                f"model '{model}' version {number} is not loaded: only versions that a label or the experiment "
                f"names are; {self._choices(model)}"
            )
        return found

    def label_version(self, model: str, label: str) -> int:
        """Return the READY version that requests for `label` get; raise UnknownName, or NotReady while it loads."""
        number = self._routes.get(model, {}).get(label)
        if number is not None:
            return number
        if label in self._wanted_labels(model):
            target = self._wanted_labels(model)[label]
            state = self._versions.get((model, int(target)))
            reason = f": {state.reason}" if state is not None and state.reason else ""
            raise NotReady(
                f"model '{model}' label '{label}' points to version {target}, which is not ready{reason}"
            )
        if model not in self._labels or model in self._unloaded:
            raise self._not_served(model)
        raise UnknownName(f"model '{model}' has no label '{label}'; {self._choices(model)}")

    def labels(self, model: str) -> dict[str, int]:
        """Return where each label leads requests now."""
        return dict(self._routes.get(model, {}))

    def scorer(self, model: str, version: int) -> Scorer | None:
        """Return the engine of a READY version, None for any other."""
        found = self._versions.get((model, version))
        if found is None or found.state is not State.READY or found.serving is None:
            return None
        return found.serving.scorer

    def known_versions(self, model: str) -> list[Version]:
        """Return the versions of a model that are loaded, on their way or failed, by number."""
        return [version for (name, _), version in sorted(self._versions.items()) if name == model]

    def served_versions(self, model: str) -> list[Version]:
        """Return the known versions of a model; raise UnknownName, or NotReady when none is loaded."""
        versions = self.known_versions(model)
        if not versions:
            raise self._not_served(model)
        return versions

    def ready_numbers(self, model: str) -> list[int]:
        """Return the versions of a model that answer."""
        return [version.number for version in self.known_versions(model) if version.state is State.READY]

    def schema(self, model: str, number: int | None = None) -> FeatureSchema:
        """Return the fields of a version, by default of `stable`, else of the newest that is READY.

        Raises UnknownName, NotReady.
        """
        self.served_versions(model)
        if number is None:
            ready = self.ready_numbers(model)
            if not ready:
                raise NotReady(f"model '{model}' has no ready version")
            number = self._routes.get(model, {}).get(DEFAULT_LABEL, ready[-1])
        return self.version(model, number).ready().scorer.encoder.schema

    def blockers(self) -> list[str]:
        """Return what keeps the service from being ready; empty when it is.

        Every required label of every model must lead to a READY version, and the versions of experiments must have
        passed or failed their gates. A candidate that failed does not stop the service: the default answers for it.
        """
        if not self._looked:
            return [NOT_LOOKED]
        blockers = []
        required = [
            (model, label)
            for model in sorted(self._labels)
            for label in self._settings.required_labels
            if label in self._wanted_labels(model)
        ]
        if not required and self._settings.required_labels:
            names = ", ".join(self._settings.required_labels)
            blockers.append(
                f"no model in '{self._settings.store}' has a required label ({names}): publish one with "
                f"`slimctr publish --label {self._settings.required_labels[0]}`"
            )
        for model, label in required:
            if label not in self._routes.get(model, {}):
                version = self._versions.get((model, int(self._wanted_labels(model)[label])))
                reason = f": {version.reason}" if version is not None and version.reason else ""
                blockers.append(f"model '{model}' label '{label}' leads to no ready version yet{reason}")
        for model, number in sorted(self._bound):
            version = self._versions.get((model, number))
            if version is None or version.state not in (State.READY, State.UNAVAILABLE):
                blockers.append(f"model '{model}' version {number} of an experiment is loading")
        return blockers

    # What experiments and operators ask

    def require(self, versions: Iterable[Key]) -> None:
        """Keep these versions loaded, whatever the labels say: an experiment needs them."""
        self._bound = frozenset(versions)

    async def load_model(self, model: str) -> None:
        """Load what labels and experiments need of a model, else its newest version; return when it is READY.

        Raises UnknownName, LoadFailed.
        """
        await self._look()
        self._unloaded.discard(model)
        keys = {key for key in self._wanted() if key[0] == model}
        if not keys:
            numbers = await self.catalog.versions(model)
            if not numbers:
                raise UnknownName(f"the store has no model '{model}'")
            keys = {(model, numbers[-1])}
        await self._load_now(keys)

    async def load_version(self, model: str, number: int) -> None:
        """Load one version and return when it is READY; raise NotFound, LoadFailed."""
        await self.catalog.check(model, number)
        self._unloaded.discard(model)
        await self._load_now({(model, number)})

    async def unload_model(self, model: str) -> None:
        """Unload every version of a model, labels or not.

        Raises UnknownName, VersionInUse for a model of an experiment or one that is loaded again meanwhile.
        """
        if model not in self.models():
            raise UnknownName(f"model '{model}' is not loaded")
        if any(name == model for name, _ in self._bound):
            raise VersionInUse(f"an experiment needs model '{model}'")
        self._unloaded.add(model)
        self._asked = {key for key in self._asked if key[0] != model}
        self._reconcile()
        await self._until(lambda: not self.known_versions(model) or model not in self._unloaded)
        if model not in self._unloaded:
            raise VersionInUse(f"model '{model}' was asked for again while it was unloaded")

    async def unload_version(self, model: str, number: int) -> None:
        """Unload one version after its last request; raise UnknownName, VersionInUse."""
        self.version(model, number)
        key = (model, number)
        await self._look()
        if key in self._bound:
            raise VersionInUse(f"an experiment needs model '{model}' version {number}")
        if key in self._labeled() or number in self._routes.get(model, {}).values():
            raise VersionInUse(f"a label points to model '{model}' version {number}")
        self._asked.discard(key)
        self._reconcile()
        await self._until(lambda: key not in self._versions or key in self._wanted())
        if key in self._wanted():
            raise VersionInUse(f"model '{model}' version {number} was asked for again while it was unloaded")

    async def refresh_memory(self) -> None:
        """Read again what each version holds in memory."""
        await self._loader.refresh_memory(self._versions.values())

    # Its own life

    def start(self) -> None:
        """Begin to follow the labels; returns at once, `blockers` tells when it serves."""
        self._spawn(self._watch())

    async def settled(self) -> None:
        """Return when the labels were read and nothing is loading or unloading any more."""
        await self._until(lambda: self._looked and all(self._loaded(key) for key in self._versions))

    async def stop(self) -> None:
        """End the watch and close every version; requests must have ended."""
        self._loader.hurry()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for version in self._versions.values():
            await self._loader.close(version)
        self._versions.clear()
        self._loader.shutdown()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._look()
                for version in self._versions.values():
                    self._loader.flush_counts(version)
                await self._watch_files()
                if loop.time() - self._memory_read_s >= MEMORY_REFRESH_SECONDS:
                    self._memory_read_s = loop.time()
                    await self.refresh_memory()
            except Exception:
                logger.exception("following the labels failed; trying again")
            await asyncio.sleep(self._settings.label_poll_seconds)

    async def _look(self) -> None:
        """Read the labels of every model and act on what changed."""
        labels = await self.catalog.labels()
        for model, found in labels.items():
            before = self._labels.get(model)
            if before is None or before.revision != found.revision:
                # A moved label is also the operator's way to say: try the failed version again.
                for version in self.known_versions(model):
                    if version.state is State.UNAVAILABLE:
                        del self._versions[(model, version.number)]
        self._labels = labels
        if not self._looked and self.catalog.was_read:
            self._looked = True
            self._loader.keep_ahead(self._wanted())
        self._reconcile()

    async def _watch_files(self) -> None:
        """Take out versions whose files were written to; try refused ones again whose time has come."""
        for key, version in list(self._versions.items()):
            if version.state is State.READY and version.serving is not None:
                serving = version.serving
                found = await asyncio.to_thread(
                    look_at, serving.path, version.loaded_files, serving.manifest.files
                )
                if version.state is State.READY:
                    self._act_on(version, found)
            elif version.state is State.UNAVAILABLE and time.monotonic() >= version.retry_s:
                files = await asyncio.to_thread(self._store.file_states, *key)
                if version.may_come or files != version.tried_files:
                    version.retry_s = math.inf  # until this try is over
                    self._spawn(self._try_again(key, version))

    def _act_on(self, version: Version, found: Found) -> None:
        version.loaded_files = found.states
        if found.damage:
            self._loader.take_out(version, found.damage)
            self._spawn(self._close(version))
            self._reconcile()
            return
        was_whole = not version.reason
        version.reason = ""
        if found.replaced:
            version.reason = (
                f"{', '.join(found.replaced)}: replaced or deleted in the store after the load; what was loaded "
                "serves on, and the next start reads what is there then"
            )
        if was_whole and found.replaced:
            logger.warning(
                "files of a served version are gone",
                extra={"model": version.model, "version": version.number, "detail": version.reason},
            )

    async def _try_again(self, key: Key, refused: Version) -> None:
        """Load a refused version anew; it stays in its place until it is known how that ends."""
        version = self._new_version(*key)
        version.failures = refused.failures
        async with self._loading:
            if self._versions.get(key) is refused:
                await self._loader.load(version, beside_traffic=self._was_ready)
        if self._versions.get(key) is refused:
            self._versions[key] = version
            self._reconcile()
        elif version.serving is not None:  # meanwhile a label moved, and the version is loaded for that
            await self._loader.close(version)

    async def _close(self, version: Version) -> None:
        """Let go of a version that was taken out, after its last request."""
        await version.idle.wait()
        await self._loader.close(version)

    def _wanted_labels(self, model: str) -> dict[str, str]:
        if model in self._unloaded or model not in self._labels:
            return {}
        return dict(self._labels[model].labels)

    def _labeled(self) -> set[Key]:
        return {
            (model, int(number)) for model in self._labels for number in self._wanted_labels(model).values()
        }

    def _wanted(self) -> set[Key]:
        return self._labeled() | self._bound | self._asked

    def _reconcile(self) -> None:
        wanted = self._wanted()
        for key in sorted(wanted - self._versions.keys()):
            self._versions[key] = self._new_version(*key)
            self._spawn(self._load(self._versions[key]))
        for model in self._labels.keys() | self._routes.keys():
            self._move_labels(model)
        routed = {(model, number) for model, routes in self._routes.items() for number in routes.values()}
        for key, version in list(self._versions.items()):
            if key in wanted | routed:
                continue
            if version.state is State.READY:
                version.state = State.UNLOADING  # now, so that no request of this turn takes it any more
                self._spawn(self._unload(version))
            elif version.state is State.UNAVAILABLE:
                del self._versions[key]
        self._served = self.models()
        ready = not self.blockers()
        self._was_ready = self._was_ready or ready
        if not self._default_is_fixed:
            self._fix_default(ready)
        self._announce()

    def _fix_default(self, ready: bool) -> None:
        """Decide on the default model at the first ready moment, or take over what another worker decided."""
        folder = self._workers_folder
        if self._served and (ready or (folder is not None and is_decided(folder))):
            self._default_is_fixed = True
            default = self._served[0] if len(self._served) == 1 else None
            self._default_model = default if folder is None else agreed_default(folder, default)

    def _move_labels(self, model: str) -> None:
        routes = self._routes.setdefault(model, {})
        targets = {label: int(number) for label, number in self._wanted_labels(model).items()}
        taken_out = {
            label
            for label, number in routes.items()
            if (found := self._versions.get((model, number))) and found.state is State.UNAVAILABLE
        }
        for label in (routes.keys() - targets.keys()) | taken_out:
            del routes[label]
            self._metrics.move_label(model, label, None)
        for label, number in targets.items():
            if routes.get(label) != number and self.scorer(model, number) is not None:
                before = routes.get(label)
                routes[label] = number
                self._metrics.move_label(model, label, number)
                logger.info(
                    "label moved",
                    extra={"model": model, "label": label, "version": number, "detail": f"before: {before}"},
                )

    async def _load(self, version: Version) -> None:
        async with self._loading:
            await self._loader.load(version, beside_traffic=self._was_ready)
            self._reconcile()

    async def _unload(self, version: Version) -> None:
        await self._loader.unload(version)
        del self._versions[(version.model, version.number)]
        self._reconcile()

    def _new_version(self, model: str, number: int) -> Version:
        statistics = Statistics()
        return Version(
            model, number, statistics, VersionInstruments(self._metrics, model, number, statistics)
        )

    async def _load_now(self, keys: set[Key]) -> None:
        for key in keys:
            found = self._versions.get(key)
            if found is not None and found.state is State.UNAVAILABLE:
                del self._versions[key]
        self._asked |= keys - self._wanted()
        self._reconcile()
        await self._until(lambda: all(key not in self._wanted() or self._loaded(key) for key in keys))
        undone = sorted(keys - self._wanted())
        if undone:
            names = ", ".join(f"{model}/{number}" for model, number in undone)
            raise LoadFailed(f"{names}: no longer wanted, a label moved away or an unload came meanwhile")
        failed = [
            self._versions[key] for key in sorted(keys) if self._versions[key].state is State.UNAVAILABLE
        ]
        if failed:
            self._asked -= keys
            raise LoadFailed("; ".join(f"{v.model}/{v.number}: {v.reason}" for v in failed))

    def _loaded(self, key: Key) -> bool:
        """Return whether the gates of a version are behind it."""
        found = self._versions.get(key)
        return found is not None and found.state in (State.READY, State.UNAVAILABLE)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _announce(self) -> None:
        """Wake everyone who waits for a change; each looks for itself whether it was the awaited one."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _not_served(self, model: str) -> UnknownName | NotReady:
        if model in self._unloaded:
            return NotReady(f"model '{model}' was unloaded by request")
        if model in self._labels:
            return NotReady(f"model '{model}' is in the store, but none of its versions is loaded")
        if not self._looked:
            return NotReady(NOT_LOOKED)
        if model in self.catalog.unread:
            return NotReady(f"the labels of model '{model}' cannot be read: {self.catalog.unread[model]}")
        return UnknownName(f"model '{model}' is not served; models: {', '.join(self.models()) or 'none'}")

    def _choices(self, model: str) -> str:
        versions = ", ".join(str(version.number) for version in self.known_versions(model)) or "none"
        labels = ", ".join(f"{label} → {number}" for label, number in sorted(self.labels(model).items()))
        return f"versions: {versions}; labels: {labels or 'none'}"
