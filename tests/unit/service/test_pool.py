"""The pool over a real store: what labels, experiments and operators ask for is what is loaded."""

import asyncio
import errno
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from artifacts import build_artifact

from model_store import pacing
from model_store.store import ModelStore
from service import loader as loader_module
from service.batching import Compute
from service.errors import LoadFailed, NotReady, UnknownName, VersionInUse
from service.loader import load_result
from service.pool import Pool
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.versions import Serving, State
from slimctr.errors import ParityError


class Case:
    """A pool that looks at its labels when the test says so."""

    def __init__(self, root: Path, workers_folder: Path | None = None, **settings: Any) -> None:
        self.store = ModelStore(root)
        self.metrics = Metrics()
        self.compute = Compute(1)
        self.settings = Settings(store=root, insecure=True, label_poll_seconds=3600, **settings)
        self.pool = Pool(self.settings, self.store, self.metrics, self.compute, workers_folder=workers_folder)

    async def look(self) -> None:
        await self.pool._look()
        await self.pool.settled()

    def states(self, model: str = "ctr") -> dict[int, State]:
        return {version.number: version.state for version in self.pool.known_versions(model)}

    def value(self, name: str, **labels: str) -> float | None:
        for family in self.metrics.collect():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return None


@asynccontextmanager
async def started(root: Path, **settings: Any) -> AsyncIterator[Case]:
    case = Case(root, **settings)
    case.pool.start()
    await case.pool.settled()
    try:
        yield case
    finally:
        await case.pool.stop()
        case.compute.close()


def run(root: Path, test: Callable[[Case], Awaitable[None]], **settings: Any) -> None:
    async def whole() -> None:
        async with started(root, **settings) as case:
            await test(case)

    asyncio.run(whole())


def alter(version: Path, name: str = "tables.safetensors") -> None:
    """Flip the last byte of a file."""
    path = version / name
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_labeled_versions_are_loaded_and_others_are_not(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path)
    build_artifact(tmp_path, label="canary", compressed=False)

    async def test(case: Case) -> None:
        assert case.states() == {1: State.READY, 3: State.READY}
        assert case.pool.labels("ctr") == {"stable": 1, "canary": 3}
        assert case.pool.label_version("ctr", "canary") == 3
        assert case.pool.scorer("ctr", 1) is not None
        assert case.pool.scorer("ctr", 2) is None
        assert case.pool.blockers() == []
        assert case.value("slimctr_model_ready", version="3") == 1
        assert case.value("slimctr_label_info", label="canary", version="3") == 1
        payload = case.value("slimctr_model_memory_bytes", version="1", kind="payload")
        assert payload == case.store.manifest("ctr", 1).bytes.payload
        tables = [
            sample.value
            for family in case.metrics.collect()
            for sample in family.samples
            if sample.name == "slimctr_table_payload_bytes" and sample.labels["version"] == "1"
        ]
        assert sum(tables) == payload

    run(tmp_path, test)


def test_a_moved_label_loads_the_new_version_and_unloads_the_old_one(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        build_artifact(tmp_path, label="stable", seed=1)
        await case.look()
        assert case.states() == {2: State.READY}
        assert case.pool.label_version("ctr", "stable") == 2
        assert case.value("slimctr_model_ready", version="1") is None
        assert case.value("slimctr_model_loads_total", result="ok") == 2

    run(tmp_path, test)


def test_the_old_version_stays_until_its_last_request_is_done(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        old = case.pool.version("ctr", 1)
        old.lease()
        build_artifact(tmp_path, label="stable")
        await case.pool._look()
        await case.pool._until(lambda: case.pool.labels("ctr") == {"stable": 2})
        assert old.state is State.UNLOADING
        assert old.serving is not None
        assert len(old.serving.scorer.logits(old.serving.scorer.golden.batch)) > 0
        old.release()
        await case.pool.settled()
        assert case.states() == {2: State.READY}

    run(tmp_path, test)


@pytest.mark.parametrize(
    "file", ["tables.safetensors", "network.onnx", "vocabulary.safetensors", "golden.safetensors"]
)
def test_an_altered_version_is_refused_and_the_old_one_keeps_serving(tmp_path: Path, file: str) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        alter(build_artifact(tmp_path), file)
        case.store.set_label("ctr", "stable", 2)
        await case.look()
        assert case.states() == {1: State.READY, 2: State.UNAVAILABLE}
        assert "altered" in case.pool.version("ctr", 2).reason
        assert case.pool.label_version("ctr", "stable") == 1
        assert case.pool.blockers() == []
        assert case.value("slimctr_model_loads_total", result="integrity") == 1
        with pytest.raises(NotReady, match="altered"):
            case.pool.version("ctr", 2).ready()

    run(tmp_path, test)


def test_a_truncated_version_is_refused(tmp_path: Path) -> None:
    version = build_artifact(tmp_path, label="stable")
    path = version / "tables.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-100])

    async def test(case: Case) -> None:
        assert case.states() == {1: State.UNAVAILABLE}
        [blocker] = case.pool.blockers()
        assert blocker.startswith("model 'ctr' label 'stable' leads to no ready version yet: ")
        assert "where the manifest says" in blocker
        with pytest.raises(NotReady, match="bytes where the manifest says"):
            case.pool.label_version("ctr", "stable")

    run(tmp_path, test)


def test_a_failed_version_is_tried_again_when_a_label_moves(tmp_path: Path) -> None:
    version = build_artifact(tmp_path, label="stable")
    alter(version)

    async def test(case: Case) -> None:
        await case.look()
        assert case.value("slimctr_model_loads_total", result="integrity") == 1
        alter(version)  # back to what it was
        case.store.set_label("ctr", "canary", 1)
        await case.look()
        assert case.states() == {1: State.READY}

    run(tmp_path, test)


def test_loads_pause_beside_traffic_and_not_before_the_service_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(pacing.time, "sleep", slept.append)
    monkeypatch.setattr(pacing, "_LEAST_PAUSE_S", 0.123)  # others sleep as well, but not so long
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, model="ranking", label="stable")

    def pauses() -> int:
        return sum(seconds >= 0.123 for seconds in slept)

    async def test(case: Case) -> None:
        assert case.states("ctr") == case.states("ranking") == {1: State.READY}
        assert pauses() == 0
        build_artifact(tmp_path, label="canary", seed=1)
        await case.look()
        assert case.states() == {1: State.READY, 2: State.READY}
        assert pauses() > 256, "one for every golden row at least"
        slept.clear()
        build_artifact(tmp_path, model="new", label="stable")
        await case.look()
        assert case.states("new") == {1: State.READY}
        assert pauses() > 256, (
            "the others are served, although the new model keeps the service from being ready"
        )

    run(tmp_path, test)


def test_the_end_of_the_service_does_not_wait_for_the_rests_of_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = time.sleep

    def shorter(seconds: float) -> None:
        slept.append(seconds)
        sleep(0.01)

    monkeypatch.setattr(pacing.time, "sleep", shorter)
    monkeypatch.setattr(pacing, "_LEAST_PAUSE_S", 0.123)
    build_artifact(tmp_path, label="stable")
    before_the_end = []

    async def test(case: Case) -> None:
        build_artifact(tmp_path, label="canary", seed=1)
        await case.pool._look()
        while not slept:
            await asyncio.sleep(0)
        assert case.states()[2] not in (State.READY, State.UNAVAILABLE)
        before_the_end.append(len(slept))

    run(tmp_path, test)
    assert len(slept) <= before_the_end[0] + 1, "no rest begins any more"


def test_a_version_whose_golden_rows_differ_never_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_artifact(tmp_path, label="stable")

    def differs(scorer: object) -> float:
        raise ParityError("golden row 3 differs")

    monkeypatch.setattr(loader_module.Scorer, "check_golden", differs)

    async def test(case: Case) -> None:
        assert case.states() == {1: State.UNAVAILABLE}
        assert case.value("slimctr_model_loads_total", result="parity") == 1
        assert case.pool.blockers()

    run(tmp_path, test)


def test_not_ready_while_a_version_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_artifact(tmp_path, label="stable")
    gate, warm_up = threading.Event(), loader_module.Scorer.warm_up

    def held(scorer: Any) -> None:
        assert gate.wait(20)
        warm_up(scorer)

    monkeypatch.setattr(loader_module.Scorer, "warm_up", held)

    async def whole() -> None:
        case = Case(tmp_path)
        assert case.pool.blockers() == ["the labels of the store were not read yet"]
        case.pool.start()
        await case.pool._until(lambda: bool(case.states()))
        assert case.pool.blockers() == ["model 'ctr' label 'stable' leads to no ready version yet"]
        with pytest.raises(NotReady, match="points to version 1"):
            case.pool.label_version("ctr", "stable")
        gate.set()
        await case.pool.settled()
        assert case.pool.blockers() == []
        await case.pool.stop()
        case.compute.close()

    asyncio.run(whole())


def test_an_empty_store_is_never_ready_and_says_why(tmp_path: Path) -> None:
    async def test(case: Case) -> None:
        [blocker] = case.pool.blockers()
        assert "slimctr publish --label stable" in blocker

    run(tmp_path, test)


def test_versions_of_experiments_stay_loaded_without_a_label(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path)

    async def whole() -> None:
        case = Case(tmp_path)
        case.pool.require({("ctr", 2)})
        case.pool.start()
        await case.pool.settled()
        assert case.states() == {1: State.READY, 2: State.READY}
        with pytest.raises(VersionInUse, match="experiment"):
            await case.pool.unload_version("ctr", 2)
        with pytest.raises(VersionInUse, match="experiment"):
            await case.pool.unload_model("ctr")
        await case.pool.stop()
        case.compute.close()

    asyncio.run(whole())


def test_a_failed_candidate_does_not_keep_the_service_from_being_ready(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    alter(build_artifact(tmp_path))

    async def whole() -> None:
        case = Case(tmp_path)
        case.pool.require({("ctr", 1), ("ctr", 2)})
        case.pool.start()
        await case.pool.settled()
        assert case.states() == {1: State.READY, 2: State.UNAVAILABLE}
        assert case.pool.blockers() == []
        await case.pool.stop()
        case.compute.close()

    asyncio.run(whole())


def test_one_version_is_loaded_and_unloaded_on_request(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path)

    async def test(case: Case) -> None:
        await case.pool.load_version("ctr", 2)
        assert case.states() == {1: State.READY, 2: State.READY}
        await case.look()
        assert case.states() == {1: State.READY, 2: State.READY}
        with pytest.raises(VersionInUse, match="label"):
            await case.pool.unload_version("ctr", 1)
        await case.pool.unload_version("ctr", 2)
        assert case.states() == {1: State.READY}
        with pytest.raises(UnknownName):
            await case.pool.unload_version("ctr", 2)

    run(tmp_path, test)


def test_a_load_on_request_reports_its_failure(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    alter(build_artifact(tmp_path))

    async def test(case: Case) -> None:
        with pytest.raises(LoadFailed, match="altered"):
            await case.pool.load_version("ctr", 2)

    run(tmp_path, test)


@contextmanager
def held_warm_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Loads stop before their warm-up until the event is set."""
    gate, warm_up = threading.Event(), loader_module.Scorer.warm_up

    def held(scorer: Any) -> None:
        assert gate.wait(20)
        warm_up(scorer)

    with monkeypatch.context() as patched:
        patched.setattr(loader_module.Scorer, "warm_up", held)
        try:
            yield gate
        finally:
            gate.set()


def test_a_load_that_a_label_move_undoes_ends_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, label="canary", seed=1)

    async def test(case: Case) -> None:
        await case.pool.unload_model("ctr")
        with held_warm_up(monkeypatch) as gate:
            loading = asyncio.create_task(case.pool.load_model("ctr"))
            await case.pool._until(lambda: len(case.states()) == 2)
            case.store.set_label("ctr", "canary", 1)
            await case.pool._look()
            gate.set()
            async with asyncio.timeout(20):
                with pytest.raises(LoadFailed, match="ctr/2: no longer wanted"):
                    await loading
        await case.pool.settled()
        assert case.states() == {1: State.READY}

    run(tmp_path, test)


def test_a_load_that_an_unload_undoes_ends_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path)

    async def test(case: Case) -> None:
        with held_warm_up(monkeypatch) as gate:
            loading = asyncio.create_task(case.pool.load_version("ctr", 2))
            await case.pool._until(lambda: 2 in case.states())
            unloading = asyncio.create_task(case.pool.unload_version("ctr", 2))
            async with asyncio.timeout(20):
                with pytest.raises(LoadFailed, match="no longer wanted"):
                    await loading
                gate.set()
                await unloading
        assert case.states() == {1: State.READY}

    run(tmp_path, test)


def test_an_unload_that_a_label_move_undoes_ends_with_a_reason(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path)

    async def test(case: Case) -> None:
        await case.pool.load_version("ctr", 2)
        leased = case.pool.version("ctr", 2)
        leased.lease()
        unloading = asyncio.create_task(case.pool.unload_version("ctr", 2))
        await case.pool._until(lambda: leased.state is State.UNLOADING)
        case.store.set_label("ctr", "canary", 2)
        await case.pool._look()
        async with asyncio.timeout(20):
            with pytest.raises(VersionInUse, match="asked for again"):
                await unloading
        leased.release()
        await case.pool._until(lambda: case.pool.labels("ctr").get("canary") == 2)
        assert case.states() == {1: State.READY, 2: State.READY}

    run(tmp_path, test)


def test_a_model_that_is_loaded_again_while_it_unloads_ends_the_unload(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        leased = case.pool.version("ctr", 1)
        leased.lease()
        unloading = asyncio.create_task(case.pool.unload_model("ctr"))
        await case.pool._until(lambda: leased.state is State.UNLOADING)
        loading = asyncio.create_task(case.pool.load_model("ctr"))
        async with asyncio.timeout(20):
            with pytest.raises(VersionInUse, match="asked for again"):
                await unloading
            leased.release()
            await loading
        assert case.states() == {1: State.READY}

    run(tmp_path, test)


def test_memory_read_while_a_version_unloads_leaves_no_gauge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path)
    reading, gate, memory_bytes = threading.Event(), threading.Event(), Serving.memory_bytes

    def slow(serving: Serving) -> dict[str, int]:
        reading.set()
        assert gate.wait(20)
        return memory_bytes(serving)

    async def test(case: Case) -> None:
        await case.pool.load_version("ctr", 2)
        assert case.value("slimctr_model_memory_bytes", version="2") is not None
        monkeypatch.setattr(Serving, "memory_bytes", slow)
        refreshing = asyncio.create_task(case.pool._loader.refresh_memory([case.pool.version("ctr", 2)]))
        assert await asyncio.to_thread(reading.wait, 20)
        await case.pool.unload_version("ctr", 2)
        gate.set()
        await refreshing
        assert case.value("slimctr_model_memory_bytes", version="2") is None

    run(tmp_path, test)


def test_a_whole_model_is_unloaded_and_loaded_again(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, label="canary")
    build_artifact(tmp_path, model="other")

    async def test(case: Case) -> None:
        await case.pool.unload_model("ctr")
        await case.look()
        assert case.states() == {}
        with pytest.raises(NotReady, match="unloaded"):
            case.pool.label_version("ctr", "stable")
        await case.pool.load_model("ctr")
        assert case.states() == {1: State.READY, 2: State.READY}
        await case.pool.load_model("other")
        assert case.states("other") == {1: State.READY}
        with pytest.raises(UnknownName):
            await case.pool.load_model("nothing")
        with pytest.raises(UnknownName):
            await case.pool.unload_model("nothing")

    run(tmp_path, test)


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        assert case.pool.default_model() == "ctr"
        with pytest.raises(UnknownName, match="labels: stable → 1"):
            case.pool.label_version("ctr", "canary")
        with pytest.raises(UnknownName, match="models: ctr"):
            case.pool.label_version("nothing", "stable")
        with pytest.raises(UnknownName, match="versions: 1"):
            case.pool.version("ctr", 9)

    run(tmp_path, test)


def test_the_default_model_must_be_named_when_there_are_several(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, model="other", label="stable")

    async def test(case: Case) -> None:
        with pytest.raises(UnknownName, match="ctr, other"):
            case.pool.default_model()

    async def configured(case: Case) -> None:
        assert case.pool.default_model() == "other"

    run(tmp_path, test)
    run(tmp_path, configured, default_model="other")


def test_workers_agree_on_the_default_model(tmp_path: Path) -> None:
    """Whenever each reads the labels: one before the second model has a label, one after, one that never gets ready."""
    root, folder = tmp_path / "models", tmp_path / "shared"
    folder.mkdir()
    build_artifact(root, model="other", label="stable")

    async def same(case: Case) -> None:
        assert case.pool.default_model() == "other"

    async def grow(case: Case) -> None:
        await same(case)
        build_artifact(root, label="stable")
        await case.look()
        await same(case)
        async with started(root, workers_folder=folder) as replacement:
            await same(replacement)
        alter(root / "ctr" / "1")
        async with started(root, workers_folder=folder) as replacement:
            assert replacement.pool.blockers()
            await same(replacement)

    run(root, grow, workers_folder=folder)
    assert [path.name for path in folder.iterdir()] == ["default-model"]


def test_workers_agree_that_there_is_no_default_model(tmp_path: Path) -> None:
    root, folder = tmp_path / "models", tmp_path / "shared"
    folder.mkdir()
    build_artifact(root, model="other", label="stable")
    build_artifact(root, label="stable")

    async def none(case: Case) -> None:
        with pytest.raises(UnknownName, match="name a model"):
            case.pool.default_model()

    run(root, none, workers_folder=folder)
    shutil.rmtree(root / "ctr")
    run(root, none, workers_folder=folder)


def test_without_the_shared_folder_a_worker_decides_alone(tmp_path: Path) -> None:
    build_artifact(tmp_path / "models", label="stable")

    async def decided(case: Case) -> None:
        assert case.pool.default_model() == "ctr"

    run(tmp_path / "models", decided, workers_folder=tmp_path / "gone")


def test_labels_that_cannot_be_read_leave_the_last_ones_in_force(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        (tmp_path / "ctr" / "labels.json").write_text("{")
        await case.look()
        assert case.pool.labels("ctr") == {"stable": 1}

    run(tmp_path, test)


def test_a_store_that_vanishes_leaves_what_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "models"
    build_artifact(root, label="stable")

    async def test(case: Case) -> None:
        root.rename(tmp_path / "elsewhere")
        await case.look()
        root.mkdir()  # the empty folder of an unmounted disk
        await case.look()
        assert case.pool.labels("ctr") == {"stable": 1}
        assert case.states() == {1: State.READY}
        root.rmdir()
        (tmp_path / "elsewhere").rename(root)
        case.store.remove_label("ctr", "stable")
        await case.look()
        assert case.pool.labels("ctr") == {}

    run(root, test)
    assert [record.getMessage() for record in caplog.records].count("labels have vanished") == 1


def test_a_model_whose_folder_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it missing: requests for it are told why it is not ready, until it can be read."""
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, model="other", label="stable")
    versions = ModelStore.versions

    def fail(store: ModelStore, model: str) -> list[int]:
        if model == "other":
            raise OSError(errno.ESTALE, "Stale file handle")
        return versions(store, model)

    monkeypatch.setattr(ModelStore, "versions", fail)

    async def test(case: Case) -> None:
        assert case.pool.blockers() == []
        assert case.pool.label_version("ctr", "stable") == 1
        assert await case.pool.catalog.models() == ["ctr"]
        with pytest.raises(NotReady, match="Stale file handle"):
            case.pool.label_version("other", "stable")
        monkeypatch.undo()
        await case.look()
        assert case.pool.label_version("other", "stable") == 1

    run(tmp_path, test)


def test_labels_without_a_revision_are_labels(tmp_path: Path) -> None:
    """As written by hand or another tool, before and after a command counted a change."""
    folder = build_artifact(tmp_path, label="stable").parent
    build_artifact(tmp_path)

    async def test(case: Case) -> None:
        for number in (2, 1):
            (folder / "labels.json").write_text(json.dumps({"labels": {"stable": str(number)}}))
            await case.look()
            await case.pool.settled()
            assert case.pool.labels("ctr") == {"stable": number}

    run(tmp_path, test)


def test_looked_up_values_are_counted_by_field_and_outcome(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        version = case.pool.version("ctr", 1)
        encoder = version.ready().scorer.encoder
        batch = encoder.encode_rows(
            [{"ad": "a1", "tags": ["red", "unheard"]}, {"ad": "stranger", "user": "u1"}]
        )
        assert version.counts is not None
        version.counts.add(batch, encoder.schema)
        case.pool._loader.flush_counts(version)
        assert case.value("slimctr_embedding_rows_total", field="ad", outcome="hit") == 1
        assert case.value("slimctr_embedding_rows_total", field="ad", outcome="oov") == 1
        assert case.value("slimctr_embedding_rows_total", field="user", outcome="missing") == 1
        assert case.value("slimctr_embedding_rows_total", field="tags", outcome="hit") == 1
        assert case.value("slimctr_embedding_rows_total", field="tags", outcome="oov") == 1

    run(tmp_path, test)


def test_every_failure_of_a_load_has_a_result() -> None:
    assert load_result(None) == "ok"
    assert load_result(MemoryError()) == "memory"
    assert load_result(ValueError()) == "error"


def test_unloading_a_model_forgets_what_was_asked_of_it_and_of_no_other(tmp_path: Path) -> None:
    for model in ("ctr", "other"):
        build_artifact(tmp_path, model=model, label="stable")
        build_artifact(tmp_path, model=model)

    async def test(case: Case) -> None:
        await case.pool.load_version("ctr", 2)
        await case.pool.load_version("other", 2)
        async with asyncio.timeout(10):
            await case.pool.unload_model("ctr")
        await case.pool.settled()
        assert case.states("ctr") == {}
        assert case.states("other") == {1: State.READY, 2: State.READY}

    run(tmp_path, test)


def test_nothing_is_unknown_before_the_labels_were_read(tmp_path: Path) -> None:
    """What could not be read yet may be there: 503, and 404 only once it is known."""
    build_artifact(tmp_path / "models", label="stable")

    async def whole() -> None:
        case = Case(tmp_path / "models")
        try:
            for ask in (
                case.pool.default_model,
                lambda: case.pool.version("ctr", 1),
                lambda: case.pool.label_version("ctr", "stable"),
                lambda: case.pool.served_versions("ctr"),
                lambda: case.pool.schema("ctr"),
            ):
                with pytest.raises(NotReady, match="labels of the store were not read yet"):
                    ask()
            (tmp_path / "models").rename(tmp_path / "unmounted")
            await case.pool._look()
            assert case.pool.blockers() == ["the labels of the store were not read yet"]
            with pytest.raises(NotReady):
                case.pool.label_version("ctr", "stable")
            (tmp_path / "unmounted").rename(tmp_path / "models")
            await case.look()
            assert case.pool.label_version("ctr", "stable") == 1
            with pytest.raises(UnknownName):
                case.pool.label_version("another", "stable")
        finally:
            await case.pool.stop()
            case.compute.close()

    asyncio.run(whole())


def test_a_model_whose_labels_cannot_be_read_is_not_unknown(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, label="stable", model="other")
    labels = tmp_path / "other" / "labels.json"
    found = labels.read_bytes()
    labels.write_bytes(b"{")

    async def test(case: Case) -> None:
        assert case.pool.label_version("ctr", "stable") == 1
        with pytest.raises(NotReady, match="labels of model 'other' cannot be read"):
            case.pool.label_version("other", "stable")
        labels.write_bytes(found)
        await case.look()
        assert case.pool.label_version("other", "stable") == 1

    run(tmp_path, test)


def test_the_default_model_is_that_of_the_first_ready_moment(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        assert case.pool.default_model() == "ctr"
        build_artifact(tmp_path, label="stable", model="another")
        await case.look()
        assert case.pool.models() == ["another", "ctr"]
        assert case.pool.default_model() == "ctr"
        case.store.remove_label("ctr", "stable")
        await case.look()
        assert case.pool.models() == ["another"]
        assert case.pool.default_model() == "ctr"

    run(tmp_path, test)


def test_of_several_models_none_is_the_default_later_either(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, label="stable", model="another")

    async def test(case: Case) -> None:
        case.store.remove_label("another", "stable")
        await case.look()
        with pytest.raises(UnknownName, match="name a model: default_model is not set"):
            case.pool.default_model()

    run(tmp_path, test)


@pytest.mark.parametrize("required", [("stable",), ()])
def test_the_first_model_of_an_empty_store_becomes_the_default(
    tmp_path: Path, required: tuple[str, ...]
) -> None:
    async def test(case: Case) -> None:
        with pytest.raises(UnknownName):
            case.pool.default_model()
        build_artifact(tmp_path, label="stable")
        await case.look()
        build_artifact(tmp_path, label="stable", model="another")
        await case.look()
        assert case.pool.default_model() == "ctr"

    run(tmp_path, test, required_labels=required)
