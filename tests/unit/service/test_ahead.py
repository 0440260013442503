"""Versions opened ahead of the service: handed out once, never a damaged one, and no handle is left behind."""

import asyncio
import os
from contextlib import closing
from pathlib import Path

import pytest
from artifacts import build_artifact

from model_store.store import ModelStore
from service import loader
from service.ahead import Ahead
from service.batching import Compute
from service.loader import open_ahead
from service.pool import Pool
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.versions import State


def handles(folder: Path) -> int:
    """Return how many files under `folder` this process has open or mapped."""
    opened = sum(
        os.readlink(entry).startswith(f"{folder}/")
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_symlink()
    )
    return opened + Path("/proc/self/maps").read_text().count(f" {folder}/")


def states(root: Path, ahead: Ahead) -> dict[int, tuple[State, str]]:
    """Return state and reason of the versions that a pool with `ahead` loads."""

    async def run() -> dict[int, tuple[State, str]]:
        compute = Compute(1)
        settings = Settings(store=root, insecure=True)
        pool = Pool(settings, ModelStore(root), Metrics(), compute, ahead)
        pool.start()
        await pool.settled()
        found = {version.number: (version.state, version.reason) for version in pool.known_versions("ctr")}
        await pool.stop()
        compute.close()
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("opened", [False, True])
def test_the_pool_neither_verifies_nor_opens_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path)
    build_artifact(tmp_path, label="canary", seed=1)
    ahead = Ahead(tmp_path)
    assert ahead.pending() == [("ctr", 1), ("ctr", 3)]
    if opened:
        open_ahead(ahead, Settings(store=tmp_path, insecure=True))
        assert ahead.pending() == []
        monkeypatch.delattr(loader, "open_version")
    monkeypatch.delattr(loader, "verify")
    assert states(tmp_path, ahead) == {1: (State.READY, ""), 3: (State.READY, "")}
    ahead.close()
    assert handles(tmp_path) == 0


@pytest.mark.parametrize("opened", [False, True])
def test_a_damaged_version_is_refused_with_its_reason(tmp_path: Path, opened: bool) -> None:
    version = build_artifact(tmp_path, label="stable")
    tables = version / "tables.safetensors"
    tables.chmod(0o644)
    data = tables.read_bytes()
    tables.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with closing(Ahead(tmp_path)) as ahead:
        if opened:
            open_ahead(ahead, Settings(store=tmp_path, insecure=True))
            assert ahead.opened == {}
        state, reason = states(tmp_path, ahead)[1]
    assert state is State.UNAVAILABLE
    assert "sha256" in reason


def test_what_nobody_wants_is_let_go_of(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    build_artifact(tmp_path, label="canary")
    ahead = Ahead(tmp_path)
    open_ahead(ahead, Settings(store=tmp_path, insecure=True))
    assert handles(tmp_path) > 0
    ahead.keep({("ctr", 2)})
    assert list(ahead.opened) == [("ctr", 2)]
    ahead.close()
    assert handles(tmp_path) == 0

    ahead = Ahead(tmp_path)
    ahead.close()
    assert ahead.pending() == []
    assert handles(tmp_path) == 0


def test_a_store_that_cannot_be_read_is_left_to_the_pool(tmp_path: Path) -> None:
    build_artifact(tmp_path, label="stable")
    (tmp_path / "ctr" / "labels.json").write_text("{")
    for root in (tmp_path, tmp_path / "absent"):
        with closing(Ahead(root)) as ahead:
            assert ahead.pending() == []
