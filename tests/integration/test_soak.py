"""Many cycles of load, score and unload through the service: nothing of an unloaded version stays behind."""

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service

from service.resident import anonymous_bytes
from slimctr.scoring import Scorer

pytestmark = pytest.mark.alone  # measures what cycles of loads leave in memory

WARM_UP_CYCLES = 10
CYCLES = 40
COUNTS = 20
FREED_SECONDS = 5
# What the allocators of Python and C may keep for reuse; a version that stayed would also keep its maps open.
MAX_GROWTH_BYTES = 4 * 1024 * 1024


def cycle(service: LiveService) -> "weakref.ref[Scorer]":
    """Load version 2, score with it on a connection of its own, unload it; return a reference to its scorer."""
    service.http.post("/v1/models/ctr/versions/2/load").raise_for_status()
    loaded = service.pool.version("ctr", 2).serving
    assert loaded is not None
    scorer = weakref.ref(loaded.scorer)
    del loaded
    for rows in (1, 7, 300):
        answer = service.predict(version="2", instances=raw_rows(rows))
        assert len(answer["scores"]) == rows
    service.http.post("/v1/models/ctr/versions/2/unload").raise_for_status()
    return scorer


def descriptors() -> int:
    """The fewest open ones of several counts: tasks of the service open a file of /proc now and then."""
    counts = []
    for _ in range(COUNTS):
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
        time.sleep(0.01)
    return min(counts)


def still_alive(scorers: "list[weakref.ref[Scorer]]") -> int:
    """How many are not freed: a thread that is done with one may need a moment of a core to let go of it."""
    end = time.monotonic() + FREED_SECONDS
    while (alive := sum(scorer() is not None for scorer in scorers)) and time.monotonic() < end:
        time.sleep(0.01)
    return alive


@pytest.mark.promise(1)
def test_cycles_of_load_score_and_unload_leave_nothing(tmp_path: Path) -> None:
    store = tmp_path / "models"
    build_artifact(store, label="stable")
    build_artifact(store, compressed=False, seed=1)
    with live_service(store, tmp_path, model_control="explicit") as service:
        for _ in range(WARM_UP_CYCLES):
            cycle(service)
        gc.collect()
        before = anonymous_bytes(), threading.active_count(), descriptors()
        gc.disable()  # what only a collection would free is held for an unknown time
        try:
            scorers = [cycle(service) for _ in range(CYCLES)]
            alive = still_alive(scorers)
            after = anonymous_bytes(), threading.active_count(), descriptors()
        finally:
            gc.enable()
    assert alive == 0
    assert after[1:] == before[1:]
    assert after[0] - before[0] < MAX_GROWTH_BYTES
