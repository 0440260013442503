"""Takes versions through their gates in a thread of their own, and closes them again."""

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from model_store.errors import IntegrityError, ManifestError, StoreError
from model_store.file_states import FileState
from model_store.pacing import paced, pause
from model_store.store import ModelStore
from service.ahead import Ahead, Key, Verified, verify
from service.batching import BatchQueue, Compute
from service.model_metrics import ModelMetrics
from service.resident import anonymous_bytes, return_free_memory
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.versions import FieldCounts, Serving, State, Version
from slimctr.errors import ParityError, SlimctrError
from slimctr.features import EncodedBatch
from slimctr.scoring import Scorer

# Scoring on the event loop may take this long at most: about what handing a batch to a thread and back costs.
INLINE_SECONDS = 0.0003
INLINE_CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
INLINE_REPEATS = 5
# Beside traffic a load rests so many times as long as it works, and takes a quarter of a core at most.
REST = 3.0
KEPT_FREE_BYTES = 4 * 2**20

Result = TypeVar("Result")
logger = logging.getLogger("slimctr.loader")


class Loader:
    """Opens and closes versions one at a time; requests for other versions go on meanwhile."""

    def __init__(
        self,
        settings: Settings,
        store: ModelStore,
        metrics: Metrics,
        compute: Compute,
        ahead: Ahead | None = None,
    ) -> None:
        self._settings = settings
        self._ahead = ahead
        self._store = store
        self._metrics = metrics
        self._model_metrics = ModelMetrics(metrics)
        self._compute = compute
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slimctr-loader")
        self._ending = threading.Event()

    async def load(self, version: Version, beside_traffic: bool) -> None:
        """Make `version` READY, or UNAVAILABLE with its reason; raises nothing that an artifact can provoke.

        Beside traffic it takes four times as long, and delays the requests of other versions less.
        """
        rest = REST if beside_traffic else 0.0
        error: Exception | None = None
        opened: Opened | None = None
        try:
            opened = await self._in_thread(partial(self._open, version, rest))
            version.loaded_files = opened.files
            version.serving = self._serving(version, opened)
            version.counts = FieldCounts(len(opened.scorer.encoder.schema.fields))
            version.memory_bytes = await asyncio.to_thread(memory_bytes, version.serving, rest)
            version.state = State.READY
            self._model_metrics.loaded(version)
            self._log(
                "version ready",
                version,
                duration_ms=round(opened.load_s * 1000, 1),
                runtime=opened.scorer.runtime,
            )
            if not opened.is_sealed:
                self._warn_unsealed(version)
        except Exception as caught:  # whatever a damaged artifact provokes, the others keep serving
            error = caught
            if opened is not None:
                await self._let_go(version, opened)
                opened = None
            version.refuse(error)
            self._model_metrics.failed(version)
            expected = isinstance(error, StoreError | SlimctrError | OSError)
            logger.error(
                "version refused",
                extra={"model": version.model, "version": version.number, "detail": version.reason},
                exc_info=None if expected else error,
            )
            _clear_frames(error)
        self._metrics.model_loads_total.labels(version.model, load_result(error)).inc()

    def take_out(self, version: Version, damage: str) -> None:
        """Show and log that a version that was READY serves no more."""
        version.refuse(IntegrityError(f"taken out of service: {damage}"))
        self._model_metrics.failed(version)
        logger.error(
            "version taken out",
            extra={"model": version.model, "version": version.number, "detail": version.reason},
        )

    async def unload(self, version: Version) -> None:
        """Close `version` after its last request and take it out of the metrics."""
        version.state = State.UNLOADING
        await version.idle.wait()
        await self.close(version)
        self._metrics.forget_version(version.model, version.number)
        self._log("version unloaded", version)

    async def close(self, version: Version) -> None:
        """Let go of what `version` holds."""
        self.flush_counts(version)
        if version.serving is not None:
            await self._in_thread(version.serving.scorer.close)
        version.serving = None
        await self._in_thread(partial(return_free_memory, KEPT_FREE_BYTES))

    async def _let_go(self, version: Version, opened: "Opened") -> None:
        """Close what was opened of a version that is refused after all, and take it out of the metrics."""
        version.serving = version.counts = None
        version.memory_bytes = {}
        await self._in_thread(opened.scorer.close)
        await self._in_thread(partial(return_free_memory, KEPT_FREE_BYTES))
        self._metrics.forget_version(version.model, version.number)

    def flush_counts(self, version: Version) -> None:
        """Move the looked-up values since the last flush into the metrics."""
        if version.counts is not None and version.serving is not None:
            schema = version.serving.scorer.encoder.schema
            self._model_metrics.looked_up(version.model, schema, version.counts.totals())
            version.counts = FieldCounts(len(schema.fields))

    async def refresh_memory(self, versions: Iterable[Version]) -> None:
        """Read again what each READY version holds in memory."""
        for version in list(versions):
            if version.state is State.READY and version.serving is not None:
                held_bytes = await asyncio.to_thread(memory_bytes, version.serving, REST)
                if version.state is State.READY:  # a gauge set after an unload would stay for ever
                    version.memory_bytes = held_bytes
                    self._model_metrics.memory(version)

    def keep_ahead(self, keys: Collection[Key]) -> None:
        """Let go of what was opened ahead of the service, except what is loaded next."""
        if self._ahead is not None:
            self._ahead.keep(keys)

    def hurry(self) -> None:
        """Let a load that is under way go on without rests: the service ends, and waits for it."""
        self._ending.set()

    def shutdown(self) -> None:
        """End the thread."""
        self.keep_ahead(())
        self._thread.shutdown()

    def _open(self, version: Version, rest: float) -> "Opened":
        version.tried_files = self._store.file_states(version.model, version.number)
        with paced(rest, self._ending):
            return self._open_now(version, KEPT_FREE_BYTES if rest else 0)

    def _open_now(self, version: Version, kept_bytes: int) -> "Opened":
        def at(state: State) -> None:
            version.state = state

        verified = None
        if self._ahead is not None:
            key = (version.model, version.number)
            opened = self._ahead.opened.pop(key, None)
            if opened is not None:
                return opened
            at(State.VERIFYING)
            verified = self._ahead.take(key)
        if verified is None:
            at(State.VERIFYING)
            verified = verify(self._store, (version.model, version.number))
        return open_version(verified, self._settings, at, kept_bytes)

    def _serving(self, version: Version, opened: "Opened") -> Serving:
        queue = BatchQueue(
            engine=opened.scorer,
            compute=self._compute,
            max_batch_rows=self._settings.max_batch_rows,
            max_queue_rows=self._settings.max_queue_rows,
            observer=version.instruments,
            inline_rows=opened.inline_rows,
        )
        return Serving(
            opened.scorer.manifest,
            opened.scorer,
            queue,
            opened.path,
            opened.anonymous_bytes,
            opened.parity_max_abs_logit_diff,
            opened.load_s,
        )

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _warn_unsealed(self, version: Version) -> None:
        detail = (
            f"no seal {version.number}.sha256 lies beside the folder, so an edited manifest would go unnoticed: copy "
            f"the seal too, or run `slimctr models verify {version.model}@{version.number} --seal`"
        )
        logger.warning(
            "version is not sealed",
            extra={"model": version.model, "version": version.number, "detail": detail},
        )

    def _log(self, event: str, version: Version, **context: float | str) -> None:
        logger.info(event, extra={"model": version.model, "version": version.number, **context})


@dataclass(frozen=True)
class Opened:
    """An artifact that passed every gate."""

    scorer: Scorer
    path: Path
    is_sealed: bool
    files: dict[str, FileState]
    inline_rows: int
    anonymous_bytes: int
    parity_max_abs_logit_diff: float
    load_s: float


def open_version(
    verified: Verified, settings: Settings, at: Callable[[State], None], kept_bytes: int = 0
) -> Opened:
    """Take a verified version through map, warm up and golden rows, telling `at` where it is; closes its artifact.

    `kept_bytes` of free memory stay with the process, for the requests of other versions.
    Raises StoreError, EngineError, or anything a damaged artifact provokes; nothing stays open then.
    """
    begin = time.perf_counter()
    return_free_memory(kept_bytes)
    anonymous_before = anonymous_bytes()
    with verified.artifact as artifact:
        scorer = Scorer.of(artifact, settings.intra_op_threads, settings.unknown_fields)
    try:
        at(State.WARMING)
        scorer.warm_up()
        inline_rows = measure_inline_rows(scorer)
        at(State.CHECKING)
        difference = scorer.check_golden()
    except BaseException:
        scorer.close()
        raise
    return_free_memory(kept_bytes)
    return Opened(
        scorer,
        artifact.directory,
        artifact.is_sealed,
        artifact.states,
        inline_rows,
        max(0, anonymous_bytes() - anonymous_before),
        difference,
        verified.seconds + time.perf_counter() - begin,
    )


def open_ahead(ahead: Ahead, settings: Settings) -> None:
    """Take every version of `ahead` through its gates, here and now; workers will report those that fail."""
    for key in ahead.pending():
        verified = ahead.take(key)
        if verified is not None:
            with suppress(Exception):
                ahead.opened[key] = open_version(verified, settings, lambda state: None)


def _clear_frames(error: BaseException | None) -> None:
    """Empty the frames that an error and its causes came through: whoever keeps the error would keep the version."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def measure_inline_rows(scorer: Scorer) -> int:
    """Return the largest measured batch that is scored within INLINE_SECONDS, 0 when one row takes longer."""
    fitting = 0
    for rows in INLINE_CANDIDATES:
        pause()
        batch = scorer.golden.batch.slice(0, rows)
        fastest_s = min(_seconds(scorer, batch) for _ in range(INLINE_REPEATS))
        if len(batch) < rows or fastest_s > INLINE_SECONDS:
            break
        fitting = rows
    return fitting


def _seconds(scorer: Scorer, batch: EncodedBatch) -> float:
    begin = time.perf_counter()
    scorer.logits(batch)
    return time.perf_counter() - begin


def memory_bytes(serving: Serving, rest: float) -> dict[str, int]:
    """Return the bytes of a version by kind; reading them takes some 10 ms of a core, with rests between."""
    with paced(rest):
        return serving.memory_bytes()


def load_result(error: Exception | None) -> str:
    """Return the `result` under which a load is counted."""
    if error is None:
        return "ok"
    for family, result in ((IntegrityError, "integrity"), (ManifestError, "schema"), (ParityError, "parity")):
        if isinstance(error, family):
            return result
    return "memory" if isinstance(error, MemoryError) else "error"
