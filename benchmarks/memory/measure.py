"""The measurements: start with several workers, tail latency while another model loads, cycles of load and unload."""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from benchmarks.memory.client import Client, prepared
from benchmarks.memory.service import Service, served, store_of, warm
from benchmarks.memory.tail import Window, tail_of
from model_store.store import ModelStore

SIZES = (1_000_000, 10_000_000)
VARIANTS = ("original", "pca_8bit", "ptq_4bit", "pca_mixed")
WORKERS = (1, 2, 4)
REQUEST_ROWS = 20
# Seconds of loads to pool, and of the quiet after each; what a load or an unload leaves behind settles before.
LOADING_S = 40.0
QUIET_S = 0.9
SETTLING_S = 0.15

Record = dict[str, Any]


class Bench:
    """The store of `benchmarks.large_models` and how often everything is repeated."""

    def __init__(self, store: Path, repeats: int) -> None:
        self.store = store.resolve()
        self.repeats = repeats

    def starts(self) -> Iterator[Record]:
        """Memory and start of each size, variant and number of workers; the order of the repeats is interleaved."""
        for ids in SIZES:
            model, versions = self._versions(ids)
            starts: dict[tuple[str, int], list[Record]] = {}
            for _ in range(self.repeats):
                for variant in VARIANTS:
                    for workers in WORKERS:
                        found = self._start(model, versions[variant], workers)
                        starts.setdefault((variant, workers), []).append(found)
            for (variant, workers), found in starts.items():
                artifact = ModelStore(self.store).manifest(model, versions[variant]).artifact_bytes
                yield {
                    "key": f"start/{ids}/{variant}/{workers}",
                    **{"ids": ids, "variant": variant, "workers": workers, "artifact_bytes": artifact},
                    **{name: statistics.median(entry[name] for entry in found) for name in found[0]},
                }

    def _start(self, model: str, number: int, workers: int) -> Record:
        with TemporaryDirectory(dir=self.store.parent) as folder:
            store = store_of(self.store, model, {"stable": number}, Path(folder) / "store")
            with served(store, Path(folder), workers) as service:
                warm(service, self._fields(model, number), REQUEST_ROWS, 0.5 * workers)
                memory = service.memory(store)
                scoring = memory if workers == 1 else memory[-workers:]
                return {
                    "ready_s": service.ready_s,
                    "load_s": max(service.load_s),
                    "rss_bytes": sum(entry["rss"] for entry in memory),
                    "pss_bytes": sum(entry["pss"] for entry in memory),
                    "files_pss_bytes": sum(entry["files_pss"] for entry in memory),
                    "worker_pss_without_files_bytes": max(e["pss"] - e["files_pss"] for e in scoring),
                    "worker_private_dirty_bytes": max(e["private_dirty"] for e in scoring),
                }

    def tail(self, served_ids: int, loaded_ids: int, variant: str) -> Record:
        """p99 of a client while a model of `loaded_ids` loads, against the quiet times between."""
        model, versions = self._versions(served_ids)
        other, others = self._versions(loaded_ids)
        with TemporaryDirectory(dir=self.store.parent) as folder:
            store = store_of(self.store, model, {"stable": versions["pca_8bit"]}, Path(folder) / "store")
            labels = ModelStore(store_of(self.store, other, {"idle": others[variant]}, store))
            labels.remove_label(other, "idle")
            with served(store, Path(folder)) as service:
                fields = self._fields(model, versions["pca_8bit"])
                warm(service, fields, REQUEST_ROWS)
                with Client(*service.address, _requests(model, fields)) as client:
                    windows = []
                    while sum(window.seconds for window in windows) < LOADING_S:
                        windows.append(_load_and_unload(service, labels, other, others[variant]))
                    begins, seconds = client.stop()
        return {
            "key": f"tail/{served_ids}/{loaded_ids}/{variant}",
            **{"served_ids": served_ids, "loaded_ids": loaded_ids, "variant": variant, "loads": len(windows)},
            "load_s": statistics.median(window.seconds for window in windows),
            **tail_of(begins, seconds, windows),
        }

    def cycles(self, ids: int, variant: str, cycles: int) -> Record:
        """Load, score and unload a version many times beside a served one; what the process holds after each."""
        model, versions = self._versions(ids)
        with TemporaryDirectory(dir=self.store.parent) as folder:
            wanted = {"stable": versions["pca_mixed"], "other": versions[variant]}
            store = store_of(self.store, model, wanted, Path(folder) / "store")
            ModelStore(store).remove_label(model, "other")
            with served(store, Path(folder), SLIMCTR_MODEL_CONTROL="explicit") as service:
                fields = self._fields(model, versions[variant])
                warm(service, fields, REQUEST_ROWS)
                readings = [
                    _cycle(service, store, model, versions[variant], fields) for _ in range(cycles + 1)
                ]
        first, loaded, after = readings[0]["before"], readings[0]["loaded"], readings[0]["after"]
        held = np.array([reading["after"] for reading in readings[1:]], float)
        slope = np.median(np.diff(held)) if cycles < 10 else np.polyfit(np.arange(cycles), held, 1)[0]
        return {
            "key": f"cycles/{ids}/{variant}",
            **{"ids": ids, "variant": variant, "cycles": cycles},
            "before_bytes": first,
            "loaded_bytes": loaded,
            "after_bytes": after,
            "returned_ratio": (loaded - after) / (loaded - first),
            "after_last_bytes": readings[-1]["after"],
            "slope_bytes_per_cycle": float(slope),
            "slope_of_model_ratio": float(slope) / (loaded - first),
            "threads": [readings[0]["threads"], readings[-1]["threads"]],
            "descriptors": [readings[0]["descriptors"], readings[-1]["descriptors"]],
        }

    def _versions(self, ids: int) -> tuple[str, dict[str, int]]:
        model = model_name(ids)
        labels = ModelStore(self.store).labels(model).labels
        return model, {variant: int(labels[variant]) for variant in VARIANTS}

    def _fields(self, model: str, number: int) -> list[str]:
        features = ModelStore(self.store).manifest(model, number).features
        return [field["name"] for field in features["fields"]]


def model_name(ids: int) -> str:
    """The model of a size in the store of `benchmarks.large_models`, which imports torch and so is not imported here."""
    return f"large-{ids // 1_000_000}M"


def _load_and_unload(service: Service, labels: ModelStore, model: str, number: int) -> Window:
    """Load and unload a version, with a quiet time after it; return when the load ran."""
    loads, unloads = (len(service.lines(f"version {what}")) for what in ("ready", "unloaded"))
    labels.set_label(model, "stable", number)
    ready, line = service.wait_for("version ready", loads + 1)
    time.sleep(SETTLING_S)
    labels.remove_label(model, "stable")
    unloaded, _ = service.wait_for("version unloaded", unloads + 1)
    time.sleep(SETTLING_S + QUIET_S)
    begin = ready - json.loads(line)["duration_ms"] / 1e3
    return Window(begin, ready, unloaded + SETTLING_S, unloaded + SETTLING_S + QUIET_S)


def _requests(model: str, fields: list[str]) -> list[bytes]:
    ids = np.random.default_rng(0).zipf(1.3, (64, REQUEST_ROWS, len(fields)))
    return prepared(
        {
            "model": model,
            "instances": [dict(zip(fields, map(str, row), strict=True)) for row in rows.tolist()],
        }
        for rows in ids
    )


def _cycle(service: Service, store: Path, model: str, number: int, fields: list[str]) -> Record:
    pid = service.process.pid
    with httpx.Client(base_url=service.url, timeout=60) as client:
        before = service.memory(store)[0]["pss"]
        client.post(f"/v1/models/{model}/versions/{number}/load").raise_for_status()
        row = dict.fromkeys(fields, "7")
        body = {"model": model, "version": str(number), "instances": [row] * 200}
        for _ in range(3):
            client.post("/v1/predict", json=body).raise_for_status()
        loaded = service.memory(store)[0]["pss"]
        client.post(f"/v1/models/{model}/versions/{number}/unload").raise_for_status()
        after = service.memory(store)[0]["pss"]
    return {
        **{"before": before, "loaded": loaded, "after": after},
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }
