"""Publishes a run: writes its files, scores rows with torch and with the engine, refuses when they differ."""

import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_store.artifact import NETWORK_FILE, TABLES_FILE, VOCABULARY_FILE
from model_store.errors import StoreError
from model_store.manifest import Draft, Manifest, Network
from model_store.names import LABEL, MODEL
from model_store.scratch import scratch
from model_store.store import ModelStore
from model_store.tensors import write_tensors
from slimctr.clicklogs import Dataset, Split
from slimctr.compression import REPORT_FILE
from slimctr.compression.data import data_of_run
from slimctr.errors import EngineError, ExportError
from slimctr.export.accounting import count_bytes
from slimctr.export.golden import GOLDEN_ROWS, golden_batch
from slimctr.export.golden_values import golden_values
from slimctr.export.onnx_network import FoldedNetwork, onnx_bytes
from slimctr.export.tables import store_tables
from slimctr.features import EncodedBatch, Vocabulary
from slimctr.features.renumbering import renumbered, renumbered_batch
from slimctr.networks import CtrModel, RowMap
from slimctr.networks.tables import pool
from slimctr.scoring import Scorer, encoder_digest, sigmoid
from slimctr.scoring.evaluation import stored_batch
from slimctr.scoring.golden import Golden, GoldenValues, save_golden
from slimctr.training import Run, TensorSplit, score
from slimctr.training.run import WEIGHTS_FILE, model_digests

PARITY_ROWS = 20_000
RAW_ROWS = 2_000
PARITY_ATOL = 1e-4
PROBABILITY_ATOL = 1e-5


@dataclass(frozen=True)
class Parity:
    """Largest differences between the torch model and the published artifact."""

    golden_logit: float
    logit: float
    probability: float
    rows: int


@dataclass(frozen=True)
class Version:
    """A published version: its number, its manifest and how exactly it scores like its run."""

    model: str
    version: int
    manifest: Manifest
    parity: Parity


def publish_run(
    run: Run,
    store: ModelStore,
    name: str,
    label: str | None = None,
    *,
    data: Path | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> Version:
    """Publish `run` as the next version of model `name`, and point `label` to it when one is given.

    The version appears only if the engine, opened on its finished files, scores the golden rows and 20,000
    validation rows like the torch model: dequantized rows equal, bags up to the order of their sums, |Δlogit| at
    most 1e-4, and for a model of float32 tables |Δprobability| at most 1e-5. `data` is the data set of the run
    (None: where its lineage says). Raises ExportError when the run cannot be exported or differs, StoreError when
    the store refuses.
    """
    MODEL.check(name)
    if label is not None:
        LABEL.check(label)
    _require_trained_pairs(run)
    dataset = data_of_run(run, data)
    rows = next(dataset.stream("valid", PARITY_ROWS), None)
    if rows is None:
        raise ExportError(f"data set '{dataset.path}' has no validation rows to compare scores on")
    measured: list[Parity] = []
    with scratch(Path(tempfile.gettempdir()), "slimctr-publish-", 0o700) as folder:
        draft = _write_files(run, dataset, rows.batch, folder, announce)
        announce("comparing torch and engine")
        version = store.publish(
            name,
            folder,
            draft,
            gate=lambda path: measured.append(
                check_parity(run.model, rows.batch, path, dataset.vocabulary())
            ),
        )
    if label is not None:
        store.set_label(name, label, version)
    return Version(name, version, store.manifest(name, version), measured[-1])


def check_parity(model: CtrModel, batch: EncodedBatch, path: Path, base: Vocabulary | None = None) -> Parity:
    """Score `batch` and the golden rows with `model` and with the version directory `path`; compare.

    The ids of `batch` are rows of the vocabulary `base` of training; None: of the version's own. Raises ExportError
    when the engine cannot serve the directory or differs by more than the tolerances.
    """
    try:
        scorer = Scorer.open(path)
        golden = scorer.check_golden()
    except (EngineError, StoreError) as problem:
        raise ExportError(f"not published: {problem}") from problem
    served_batch = batch if base is None else stored_batch(scorer, base, batch)
    served = scorer.logits(served_batch)
    expected = _torch_logits(model, batch)
    with torch.inference_mode():
        split = _tensors(batch)
        stored = model.lookup(split.ids, split.bags).numpy()
        order = bag_rounding(model, split).numpy()
    # bags may be summed in another order, everything else is the same arithmetic
    if not (np.abs(scorer.lookup(served_batch).astype(np.float64) - stored) <= order).all():
        raise ExportError("not published: the engine reads other table rows than the torch model")
    parity = Parity(
        golden_logit=golden,
        logit=float(np.abs(served.astype(np.float64) - expected).max()),
        probability=float(np.abs(sigmoid(served).astype(np.float64) - sigmoid(expected)).max()),
        rows=len(batch),
    )
    scorer.close()
    is_float = all(table.kind == "float" for table in (*model.spec.tables, *model.spec.wide))
    if not parity.logit <= PARITY_ATOL or (is_float and not parity.probability <= PROBABILITY_ATOL):
        raise ExportError(
            f"not published: over {parity.rows} validation rows the engine differs from torch by "
            f"{parity.logit:.2e} in the logit and {parity.probability:.2e} in the probability "
            f"(allowed {PARITY_ATOL:.0e}" + (f" and {PROBABILITY_ATOL:.0e})" if is_float else ")")
        )
    return parity


@torch.no_grad()
def bag_rounding(model: CtrModel, split: TensorSplit) -> Tensor:
    """Return how far the stored matrix of rows in another order of summation may be from torch's: float64 (B, W).

    Two float32 sums of n values differ by at most 2 gamma(n) times the sum of their magnitudes, gamma(n) = n u /
    (1 - n u), u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2); a mean divides once more.
    Single values are read alike: zero.
    """
    spec, maps = model.spec, model.row_maps or [None] * len(model.tables)
    bounds = []
    for tables, specs in ((model.tables, spec.tables), (model.wide or (), spec.wide)):
        bags = iter(split.bags)
        for table, table_spec, pooling, row_map in zip(tables, specs, spec.pooling, maps, strict=False):
            if pooling is None:
                bounds.append(torch.zeros(len(split), table_spec.dim, dtype=torch.float64))
                continue
            values, offsets = next(bags)
            rows = row_map.read(table, values) if isinstance(row_map, RowMap) else table(values)
            roundings = (int(offsets.diff().max()) + 1) * 2.0**-24
            bounds.append(2 * roundings / (1 - roundings) * pool(rows.double().abs(), offsets, pooling))
    return torch.cat(bounds, dim=1)


def _write_files(
    run: Run, dataset: Dataset, rows: EncodedBatch, folder: Path, announce: Callable[[str], None]
) -> Draft:
    if model_digests(run.path) != run.sha256:
        raise ExportError(
            f"not published: run '{run.path}' was written anew since it was loaded; publish again"
        )
    announce("packing tables")
    tables = store_tables(run.model)
    write_tensors(folder / TABLES_FILE, tables.tensors)
    announce("exporting the network")
    network = FoldedNetwork(run.model)
    (folder / NETWORK_FILE).write_bytes(onnx_bytes(network))
    base_vocabulary, _ = encoder_digest(dataset.schema, dataset.path / VOCABULARY_FILE)
    encoder = dataset.encoder()
    values = GoldenValues(base_vocabulary, golden_values(dataset.raw_test(RAW_ROWS)[0], encoder))
    first = encoder.encode_rows(values.rows)
    chosen = EncodedBatch.concatenate(
        [first, golden_batch(rows, encoder.vocabulary, GOLDEN_ROWS - len(first))]
    )
    logits = _golden_logits(network, run.model, chosen)
    if run.spec.row_maps:
        maps = [
            row_map.stored.numpy() if isinstance(row_map, RowMap) else None for row_map in run.model.row_maps
        ]
        renumbered(dataset.vocabulary(), maps, run.spec.stored_rows).save(folder / VOCABULARY_FILE)
        chosen = renumbered_batch(chosen, maps, dataset.schema)
    else:
        (folder / VOCABULARY_FILE).write_bytes((dataset.path / VOCABULARY_FILE).read_bytes())
    save_golden(folder, Golden(chosen, logits), values, dataset.schema)
    _, encoder_sha256 = encoder_digest(dataset.schema, folder / VOCABULARY_FILE)
    return Draft(
        method=tuple(step.model_dump(mode="json") for step in run.lineage.methods),
        features=dataset.schema.model_dump(mode="json", exclude_defaults=True),
        tables=tables.entries,
        network=Network(width=run.spec.stored_width, opset=network.opset),
        bytes=count_bytes(
            run.spec, tables, folder, run.config.dim, (dataset.path / VOCABULARY_FILE).stat().st_size
        ),
        base_vocabulary=base_vocabulary,
        encoder=encoder_sha256,
        parity_atol=PARITY_ATOL,
        negative_sampling_rate=run.spec.negative_sampling_rate,
        evaluation={
            f"{split}_{metric}": float(value)
            for split, metrics in run.metrics.items()
            for metric, value in metrics.items()
        },
        fidelity=_fidelity(run),
        lineage=_lineage(run),
    )


def _require_trained_pairs(run: Run) -> None:
    if not any(layer.kind == "pair_relu" for layer in run.spec.layers):
        return
    is_trained = False
    for step in reversed(run.lineage.methods):
        is_trained = is_trained or step.statistics["kept_epoch"] > 0
        if step.statistics.get("pair") == "pair_relu":
            break
    if not is_trained:
        raise ExportError(
            f"run '{run.path}' has pair_relu layers that were never trained: the ReLU between two factors "
            "changes the function until training adapts it; compress again with epochs=1 or more, or with "
            "pair=pair_linear"
        )


def _fidelity(run: Run) -> dict[str, float]:
    """Differences of test logits from the float original, where there is a report of this very run that knows them."""
    file = run.path / REPORT_FILE
    report = json.loads(file.read_text()) if file.is_file() else {}
    if report.get("compressed", {}).get("sha256") != run.sha256:
        return {}
    return report.get("original", {}).get("fidelity", {})


def _lineage(run: Run) -> dict[str, object]:
    """What the manifest says of the origin: no paths, which mean nothing elsewhere."""
    return {
        **run.lineage.model_dump(mode="json", exclude={"methods", "data", "parent"}),
        "weights_sha256": run.sha256[WEIGHTS_FILE],
        "config": run.config.model_dump(mode="json"),
    }


def _golden_logits(network: FoldedNetwork, model: CtrModel, batch: EncodedBatch) -> np.ndarray:
    """Return the logits of the exported network in float64, rounded once to float32 (G,).

    What another processor computes is then off by its own rounding alone, not by that of the publishing one too.
    """
    split = _tensors(batch)
    with torch.inference_mode():
        stored = model.lookup(split.ids, split.bags)
        return copy.deepcopy(network).double()(stored.double()).float().numpy()


def _torch_logits(model: CtrModel, batch: EncodedBatch) -> np.ndarray:
    return score(model, _tensors(batch))


def _tensors(batch: EncodedBatch) -> TensorSplit:
    return TensorSplit.of(Split(np.zeros(len(batch), np.float32), batch))
