"""Carries out one task: train or compress, publish, score the test rows through the engine, count bytes."""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.compression.plan import ORIGINAL, DataSource, Task
from benchmarks.machine import machine
from model_store.store import ModelStore
from slimctr.clicklogs import Dataset, PrepareSettings, prepare
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.compression import compress
from slimctr.export import publish_run
from slimctr.scoring import Scorer
from slimctr.scoring.evaluation import evaluate_rows
from slimctr.scoring.resident import measure_resident
from slimctr.training import Run, load_run, train
from slimctr.training.run import is_finished

SCORE_ROWS = 4096


def prepare_data(name: str, source: DataSource, data_root: Path, work: Path) -> Path:
    """Encode a log under the work folder unless it is there; return the encoded data set."""
    folder = work / "data" / name
    if not (folder / "dataset.json").is_file():
        if source.folder is None:
            spec = SyntheticSpec(rows=source.rows, ids=source.ids, seed=source.seed)
            settings = PrepareSettings("synthetic", synthetic=spec, min_count=source.min_count)
        else:
            settings = PrepareSettings(
                source.log_format, data_root / source.folder, min_count=source.min_count
            )
        prepare(settings, folder)
    return folder


def carry_out(task: Task, data: Path, work: Path) -> dict[str, Any]:
    """Return the record of a task. Its run stays under the work folder, so variants find their original."""
    torch.set_num_threads(1)
    started, cpu = time.perf_counter(), time.process_time()
    run = make_run(task, data, work)
    seconds = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    store = ModelStore(work / "store")
    version = publish_run(run, store, task.key, data=data)
    path = store.path(task.key, version.version)
    scorer = Scorer.open(path)
    dataset = Dataset(data)
    base = dataset.vocabulary()
    quality = {
        split: evaluate_rows(scorer, dataset.stream(split, SCORE_ROWS), base) for split in ("valid", "test")
    }
    scorer.close()
    sizes = version.manifest.bytes
    record = {
        "key": task.key,
        **task.identity(),
        "variant": task.variant,
        "valid": quality["valid"],
        "test": quality["test"],
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "bytes": {
            "payload": sizes.payload,
            "artifact": version.manifest.artifact_bytes,
            "resident": measure_resident(path)["resident_bytes"],
            "components": sizes.artifact_by_component,
            "original_payload": sizes.original_payload,
            "original_artifact": sizes.original_artifact,
        },
        "passes": passes(run),
        "kept_epochs": [step.statistics.get("kept_epoch") for step in run.lineage.methods],
        "parity_logit": version.parity.logit,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "git_revision": run.lineage.git_revision,
        "torch": torch.__version__,
    }
    return record


def make_run(task: Task, data: Path, work: Path) -> Run:
    """Train the original of a task or compress it; a finished run is read again."""
    folder = work / "runs" / task.key
    if is_finished(folder):
        return load_run(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if task.variant == ORIGINAL or task.method is None:
        return train(task.config, data, folder)
    original = make_run(task.original, data, work)
    return compress(original, task.method, dict(task.settings), data, folder)


def passes(run: Run) -> int:
    """Epochs of training that the weights went through, those of the original included unless it was left behind."""
    lines = (run.path / "history.jsonl").read_text().splitlines()
    steps = run.lineage.methods
    starts_over = any(
        step.method in ("small_dim", "hash_qr") or step.settings.get("start") == "fresh" for step in steps
    )
    keeps_network = any(step.method == "frequency_rule" for step in steps)
    if run.lineage.parent is None or (starts_over and not keeps_network):
        return len(lines)
    return len(lines) + passes(load_run(Path(run.lineage.parent)))


def published(task: Task, work: Path) -> Path | None:
    """The newest published version of a task, None when there is none."""
    store = ModelStore(work / "store")
    versions = store.versions(task.key) if task.key in store.models() else []
    return store.path(task.key, versions[-1]) if versions else None
