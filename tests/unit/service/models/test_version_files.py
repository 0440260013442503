"""Versions whose files come late, are damaged while they serve, or are refused: tried again, taken out, let go."""

import asyncio
import errno
import gc
import os
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from artifacts import build_artifact

from model_store import artifact as artifact_module
from model_store.store import ModelStore
from service.batching import Compute
from service.errors import NotReady
from service.pool import Pool
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.versions import State, Version
from slimctr.scoring import Scorer

pytestmark = pytest.mark.slow  # loads damaged versions again and again

FILES = ("tables.safetensors", "network.onnx", "vocabulary.safetensors", "golden.safetensors")


class Case:
    """A pool that looks at labels and files when the test says so."""

    def __init__(self, root: Path) -> None:
        self.store = ModelStore(root)
        self.metrics = Metrics()
        self.compute = Compute(1)
        settings = Settings(store=root, insecure=True, label_poll_seconds=3600)
        self.pool = Pool(settings, self.store, self.metrics, self.compute)

    async def look(self) -> None:
        """Follow labels and files as the service does every second, with no pause before the next try."""
        await self.pool._look()
        for version in self.pool.known_versions("ctr"):
            version.retry_s = min(version.retry_s, 0.0)
        await self.pool._watch_files()
        while len(self.pool._tasks) > 1:  # the watch of the pool itself goes on
            await asyncio.sleep(0.001)

    def version(self, number: int = 1) -> Version:
        return self.pool.version("ctr", number)

    def loads(self) -> float:
        samples = [
            s for f in self.metrics.collect() for s in f.samples if s.name == "slimctr_model_loads_total"
        ]
        return sum(sample.value for sample in samples)


def run(root: Path, test: Callable[[Case], Awaitable[None]]) -> None:
    async def whole() -> None:
        case = Case(root)
        case.pool.start()
        await case.pool.settled()
        try:
            await test(case)
        finally:
            await case.pool.stop()
            case.compute.close()

    asyncio.run(whole())


def write_in_place(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_label_may_come_before_the_files(tmp_path: Path) -> None:
    """As sync tools and network file systems bring them: nothing, a manifest, some files, half a file, all."""
    build_artifact(tmp_path / "from", label="stable")
    source = build_artifact(tmp_path / "from", label="stable", seed=1)
    root = tmp_path / "models"
    shutil.copytree(tmp_path / "from" / "ctr" / "1", root / "ctr" / "1")
    shutil.copy(tmp_path / "from" / "ctr" / "labels.json", root / "ctr" / "labels.json")
    target = root / "ctr" / "2"

    def some(*names: str) -> None:
        for name in names:
            shutil.copy(source / name, target / name)

    def half(name: str) -> None:
        (target / name).write_bytes((source / name).read_bytes()[:-7])

    steps: list[Callable[[], object]] = [
        lambda: None,
        target.mkdir,
        lambda: (target / "manifest.json").touch(),
        lambda: some("manifest.json"),
        lambda: some(*FILES[:2]),
        lambda: half(FILES[2]),
        lambda: some(*FILES[2:]),
    ]

    async def test(case: Case) -> None:
        for step in steps:
            step()
            await case.look()
            version = case.version(2)
            assert version.state is State.UNAVAILABLE
            assert "; tried again " in version.reason
            [blocker] = case.pool.blockers()
            assert version.reason in blocker
        for name in os.listdir(source):
            if not (target / name).exists():
                shutil.copy(source / name, target / name)
        await case.look()
        assert case.version(2).state is State.READY
        assert case.pool.label_version("ctr", "stable") == 2
        assert case.pool.blockers() == []

    run(root, test)


@pytest.mark.parametrize(
    "code", [errno.ENOENT, errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOMEM, errno.EMFILE]
)
@pytest.mark.parametrize("call", ["open_regular", "sha256", "check_file_set"])
def test_errors_of_the_system_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    build_artifact(tmp_path, label="stable")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    async def test(case: Case) -> None:
        version = case.version()
        assert version.state is State.UNAVAILABLE
        assert version.reason.endswith("; tried again in 1 s")
        monkeypatch.undo()
        await case.look()
        assert case.version().state is State.READY

    monkeypatch.setattr(artifact_module, call, refuse)
    run(tmp_path, test)


def test_the_pauses_between_tries_double_up_to_half_a_minute(tmp_path: Path) -> None:
    version = build_artifact(tmp_path, label="stable")
    (version / FILES[0]).unlink()

    async def test(case: Case) -> None:
        pauses = []
        for _ in range(8):
            pauses.append(case.version().reason.rpartition("tried again in ")[2])
            before = case.version()
            await case.pool._watch_files()
            assert case.version() is before, "tried before its time"
            await case.look()
        assert pauses == ["1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s", "30 s"]
        case.store.set_label("ctr", "canary", 1)
        await case.pool._look()
        await case.pool.settled()
        assert case.version().reason.endswith("tried again in 1 s")

    run(tmp_path, test)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_wrong_content_is_refused_until_it_changes(tmp_path: Path, name: str) -> None:
    path = build_artifact(tmp_path, label="stable") / name
    data = path.read_bytes()
    write_in_place(path, b"[" + data[1:] if name == "manifest.json" else flipped(data))

    async def test(case: Case) -> None:
        for _ in range(3):
            await case.look()
        assert case.version().state is State.UNAVAILABLE
        assert "tried again when its files change" in case.version().reason
        assert case.loads() == 1
        write_in_place(path, data)
        await case.look()
        assert case.version().state is State.READY
        assert case.loads() == 2

    run(tmp_path, test)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["overwritten", "truncated", "emptied", "appended"])
def test_a_served_file_that_is_written_to_takes_its_version_out(
    tmp_path: Path, name: str, change: str
) -> None:
    path = build_artifact(tmp_path, label="stable") / name
    data = path.read_bytes()
    contents = {"overwritten": flipped(data), "truncated": data[:-9], "emptied": b"", "appended": data + b"x"}

    async def test(case: Case) -> None:
        write_in_place(path, contents[change])
        await case.pool._watch_files()
        assert case.version().state is State.UNAVAILABLE
        assert f"taken out of service: {name} was " in case.version().reason
        [blocker] = case.pool.blockers()
        assert "taken out of service" in blocker
        with pytest.raises(NotReady, match="taken out of service"):
            case.pool.label_version("ctr", "stable")
        assert case.pool.scorer("ctr", 1) is None
        await case.look()
        assert case.version().state is State.UNAVAILABLE, "what is damaged is not loaded again"
        async with asyncio.timeout(
            60
        ):  # the first reading of its memory may still hold it, in a thread that rests
            while any(str(tmp_path) in line for line in mappings()):
                await asyncio.sleep(0.01)
        write_in_place(path, data)
        await case.look()
        assert case.version().state is State.READY
        assert case.pool.label_version("ctr", "stable") == 1
        assert case.pool.blockers() == []

    run(tmp_path, test)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_the_same_bytes_serves_on(tmp_path: Path, name: str) -> None:
    path = build_artifact(tmp_path, label="stable") / name

    async def test(case: Case) -> None:
        for change in (
            path.touch,
            lambda: path.chmod(0o600),
            lambda: write_in_place(path, path.read_bytes()),
            lambda: os.link(path, tmp_path / "link"),
        ):
            change()
            await case.look()
            assert (case.version().state, case.version().reason, case.loads()) == (State.READY, "", 1)

    run(tmp_path, test)


def test_a_file_that_cannot_be_read_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system says nothing of the bytes: damage is noticed once they can be read."""
    path = build_artifact(tmp_path, label="stable") / FILES[0]

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "input/output error")

    async def test(case: Case) -> None:
        write_in_place(path, flipped(path.read_bytes()))
        with monkeypatch.context() as broken:
            broken.setattr("service.models.watch.sha256", fail)
            await case.pool._watch_files()
            assert case.version().state is State.READY
        await case.pool._watch_files()
        assert "was overwritten in place" in case.version().reason

    run(tmp_path, test)


def test_a_store_that_returns_leaves_no_reason(tmp_path: Path) -> None:
    root = tmp_path / "models"
    build_artifact(root, label="stable")

    async def test(case: Case) -> None:
        for _ in range(2):
            root.rename(tmp_path / "unmounted")
            await case.look()
            assert "what was loaded serves on" in case.version().reason
            (tmp_path / "unmounted").rename(root)
            await case.look()
            assert (case.version().state, case.version().reason, case.loads()) == (State.READY, "", 1)

    run(root, test)


@pytest.mark.parametrize("how", ["replaced", "deleted", "folder deleted"])
def test_what_was_loaded_serves_on_when_its_file_is_another(tmp_path: Path, how: str) -> None:
    """The memory is still that of the file that was checked; a warning tells what the next start will find."""
    folder = build_artifact(tmp_path, label="stable")

    async def test(case: Case) -> None:
        scorer = case.pool.scorer("ctr", 1)
        assert scorer is not None
        if how == "replaced":
            (tmp_path / "new").write_bytes(b"other content")
            (tmp_path / "new").replace(folder / FILES[0])
        elif how == "deleted":
            (folder / FILES[0]).unlink()
        else:
            shutil.rmtree(folder)
        for _ in range(2):
            await case.look()
        assert case.version().state is State.READY
        assert "what was loaded serves on" in case.version().reason
        assert case.pool.blockers() == []
        scorer.check_golden()

    run(tmp_path, test)


def test_a_request_that_runs_keeps_its_version_until_it_is_done(tmp_path: Path) -> None:
    path = build_artifact(tmp_path, label="stable") / FILES[0]
    data = path.read_bytes()

    async def test(case: Case) -> None:
        version = case.version()
        version.lease()
        write_in_place(path, flipped(data))
        await case.pool._watch_files()
        assert version.serving is not None
        version.release()
        await case.look()
        assert version.serving is None

    run(tmp_path, test)


def mappings() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def held(root: Path) -> tuple[int, int]:
    """Return how many descriptors this process has and how many mappings of files of the store."""
    return len(os.listdir("/proc/self/fd")), sum(str(root) in line for line in mappings())


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.parametrize("stage", ["verify", "open", "warm up", "golden rows", "metrics"])
def test_a_refused_version_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Whatever gate it fails, and be it an error that nobody expected."""
    path = build_artifact(tmp_path, label="stable") / FILES[0]

    def fail(*_: Any) -> None:
        raise KeyError("a_codec_of_tomorrow")

    async def test(case: Case) -> None:
        counted = 30
        for _ in range(3):
            await try_again(case)
        gc.collect()
        before, memory_before, threads_before = held(tmp_path), anonymous_bytes(), threading.active_count()
        for _ in range(counted):
            await try_again(case)
        assert case.version().state is State.UNAVAILABLE
        gc.collect()
        assert held(tmp_path) == before
        assert before[1] == 0
        assert threading.active_count() < threads_before + counted / 2  # the event loop has a few for files
        # A version that stayed would hold its network and encoder, some 100 kB each time.
        assert anonymous_bytes() - memory_before < counted * 50_000

    async def try_again(case: Case) -> None:
        version = case.version()
        version.retry_s, version.may_come = 0.0, True
        await case.look()

    if stage == "verify":
        write_in_place(path, flipped(path.read_bytes()))
    elif stage == "open":
        monkeypatch.setattr("slimctr.scoring.scorer.read_golden", fail)
    elif stage == "metrics":
        monkeypatch.setattr("service.model_metrics.ModelMetrics.loaded", fail)
    else:
        monkeypatch.setattr(Scorer, {"warm up": "warm_up", "golden rows": "check_golden"}[stage], fail)
    run(tmp_path, test)
