"""Carries out one task: train or compress, publish, score the test rows through the engine, count bytes."""

import hashlib
import json
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
from slimctr.clicklogs.sources import sha256_of
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
    """Encode a log under the work folder unless the same one is there; return the encoded data set.

    The same: these settings, and files of these digests.
    """
    folder, made_of = work / "data" / name, work / "data" / f"{name}.json"
    wanted = source.model_dump_json()
    is_there = (folder / "dataset.json").is_file() and made_of.is_file() and made_of.read_text() == wanted
    if not is_there or not _has_source(Dataset(folder), data_root / (source.folder or "")):
        if source.folder is None:
            spec = SyntheticSpec(rows=source.rows, ids=source.ids, seed=source.seed)
            settings = PrepareSettings("synthetic", synthetic=spec, min_count=source.min_count)
        else:
            settings = PrepareSettings(
                source.log_format, data_root / source.folder, min_count=source.min_count
            )
        prepare(settings, folder, overwrite=(folder / "dataset.json").is_file())
        made_of.write_text(wanted)
    return folder


def _has_source(dataset: Dataset, folder: Path) -> bool:
    """Say whether the files that a data set was made of are those in `folder` now."""
    return all(
        (folder / entry["file"]).is_file() and sha256_of(folder / entry["file"]) == entry["sha256"]
        for entry in dataset.info["source"]
    )


def data_digest(data: Path) -> str:
    """Return one digest of all files of an encoded data set."""
    files = {entry["file"]: entry["sha256"] for entry in Dataset(data).info["files"]}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def is_record_of(record: dict[str, Any], data: Path) -> bool:
    """Say whether a record was measured on this data set; records of before their digest was kept count as such."""
    return record.get("data_sha256") in (None, data_digest(data))


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
        "data_sha256": data_digest(data),
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
    """Train the original of a task or compress it; a finished run of the same data and original is read again."""
    folder = work / "runs" / task.key
    is_original = task.variant == ORIGINAL or task.method is None
    original = None if is_original else make_run(task.original, data, work)
    if is_finished(folder):
        run = load_run(folder)
        digests = {entry["file"]: entry["sha256"] for entry in Dataset(data).info["files"]}
        parent = None if original is None else original.sha256
        if run.lineage.data_sha256 == digests and run.lineage.parent_sha256 == parent:
            return run
    shutil.rmtree(folder, ignore_errors=True)
    if original is None:
        return train(task.config, data, folder)
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
