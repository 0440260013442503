"""Makes one variant of a run and measures it in the engine; what is finished is never made again."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.store import ModelStore
from slimctr import quality
from slimctr.clicklogs import Dataset
from slimctr.compression import compress
from slimctr.compression.data import data_of_run
from slimctr.errors import CompressionError, ConfigError, ExportError
from slimctr.export import publish_run
from slimctr.frontier.folder import require_same_search
from slimctr.scoring import Scorer
from slimctr.scoring.evaluation import stored_batch
from slimctr.training import Run, load_run
from slimctr.training.run import write_whole

MODEL = "frontier"
ORIGINAL = "original"
RECORD = "variant.json"
SCORE_ROWS = 8192
BUCKETS = ("tail", "torso", "head")


class Workshop:
    """The folder of a search: runs and records under `variants/`, artifacts in the private store `store/`.

    Raises ConfigError when the folder holds the search of another run.
    """

    def __init__(self, folder: Path, run: Run, data: Path | None) -> None:
        require_same_search(folder, run)
        self.folder = folder
        self.run = run
        self.dataset = data_of_run(self.run, data)
        self.store = ModelStore(folder / "store")

    def original(self) -> dict[str, Any]:
        """Return the record of the run itself."""
        return self._known(ORIGINAL) or self._measured(ORIGINAL, self.run, "", {})

    def variant(self, method: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the record of a compressed variant, made now unless it is there."""
        key = hashlib.sha256(json.dumps([method, settings], sort_keys=True).encode()).hexdigest()[:12]
        if (known := self._known(key)) is not None:
            return known
        folder = self.folder / "variants" / key
        shutil.rmtree(folder, ignore_errors=True)  # of a trial that was cut short
        try:
            run = compress(self.run, method, settings, self.dataset.path, folder / "run")
            return self._measured(key, run, method, settings)
        except (CompressionError, ExportError):
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all finished variants, the original excepted."""
        found = sorted((self.folder / "variants").glob(f"*/{RECORD}"))
        records = [json.loads(path.read_text()) for path in found]
        return [record for record in records if record["key"] != ORIGINAL]

    def sweep(self) -> None:
        """Remove what killed searches began: variants without a record, versions that no record names."""
        folders = [path for path in (self.folder / "variants").glob("*") if path.is_dir()]
        for folder in folders:
            if not (folder / RECORD).is_file():
                shutil.rmtree(folder)
        named = {
            json.loads((folder / RECORD).read_bytes())["version"] for folder in folders if folder.exists()
        }
        for version in set(self.store.versions(MODEL)) - named:
            self.store.remove(MODEL, version)

    def variant_run(self, key: str) -> Run:
        """Return the run of a variant as it was measured. Raises ConfigError when it changed since."""
        run = load_run(self.folder / "variants" / key / "run")
        known = self._known(key)
        if known is None or run.sha256 != known["sha256"]:
            raise ConfigError(
                f"run '{run.path}' is not the one that was measured; delete its folder '{run.path.parent}' and "
                "search again"
            )
        return run

    def path(self, record: dict[str, Any]) -> Path:
        """Return the version directory of a variant."""
        return self.store.path(MODEL, record["version"])

    def test_quality(self, record: dict[str, Any]) -> dict[str, float]:
        """Score the test rows through the engine."""
        labels, logits = engine_scores(self.path(record), self.dataset, "test")
        return quality.summary(labels, logits)

    def _known(self, key: str) -> dict[str, Any] | None:
        path = self.folder / "variants" / key / RECORD
        return json.loads(path.read_text()) if path.is_file() else None

    def _measured(self, key: str, run: Run, method: str, settings: dict[str, Any]) -> dict[str, Any]:
        version = publish_run(run, self.store, MODEL, data=self.dataset.path)
        path = self.store.path(MODEL, version.version)
        labels, logits = engine_scores(path, self.dataset, "valid")
        sizes = version.manifest.bytes
        record = {
            "key": key,
            "version": version.version,
            "method": method,
            "settings": settings,
            "sha256": dict(run.sha256),
            "valid": quality.summary(labels, logits),
            "buckets": bucket_losses(labels, logits, rarest_counts(self.dataset, "valid")),
            "bytes": {
                "payload": sizes.payload,
                "artifact": version.manifest.artifact_bytes,
                "components": sizes.artifact_by_component,
            },
            "parity_logit": version.parity.logit,
        }
        file = self.folder / "variants" / key / RECORD
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(record, indent=1).encode())
        return record


def engine_scores(
    path: Path, dataset: Dataset, split: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return labels and logits, float32 (n,), of a split through the serving engine."""
    scorer = Scorer.open(path)
    base = dataset.vocabulary()
    parts = list(dataset.stream(split, SCORE_ROWS))
    logits = [scorer.logits(stored_batch(scorer, base, part.batch)) for part in parts]
    scorer.close()
    return np.concatenate([part.labels for part in parts]), np.concatenate(logits)


def rarest_counts(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """Return the training count of the rarest single value of every row of a split, int64 (n,)."""
    schema = dataset.schema
    counts = [dataset.counts(schema.names[field]) for field in schema.single]
    rarest = []
    for part in dataset.stream(split, SCORE_ROWS):
        columns = [count[part.batch.ids[:, column]] for column, count in enumerate(counts)]
        rarest.append(np.min(columns, axis=0) if columns else np.zeros(len(part.labels), np.int64))
    return np.concatenate(rarest)


def bucket_losses(
    labels: NDArray[np.floating], logits: NDArray[np.floating], rarest: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """Return rows and logloss of the tail, torso and head: thirds of the rows by the count of their rarest value."""
    order = np.argsort(rarest, kind="stable")
    parts = zip(BUCKETS, np.array_split(order, len(BUCKETS)), strict=True)
    losses = quality.row_losses(labels, logits)
    return {
        name: {"rows": len(part), "logloss": float(losses[part].mean()), "most_seen": int(rarest[part].max())}
        for name, part in parts
        if len(part)
    }
