"""Publishes DeepFM artifacts of millions of ids with random weights: sizes and speeds of real models, no training.

    python -m benchmarks.large_models --ids 10000000 --store work/large
    python -m benchmarks.large_models --ids 1000000 --store work/large --variants original pca_8bit

Every variant becomes a version of the model `large-<ids>` and gets a label of its name; variants that are published
already are left alone. All but the narrow ones approximate one function: the original is drawn with tables of
rank 8 (of 16) and MLP layers of rank 64, so that the low-rank variants score like it. Row r of every field is the value
str(r), rows are in falling order of use, row 0 is the out-of-vocabulary row.

| variant | tables | network |
|---|---|---|
| original | float32, 16 wide | 400-400-400 |
| pca_float | float32, rank 8 | layers of rank 64 |
| pca_8bit | rank 8, 8 bits, a step per column | layers of rank 64 |
| pca_mixed | rank 8, 6 to 0 bits from the frequent rows to the rare | layers of rank 64 |
| pca_8bit_narrow, pca_mixed_narrow | as pca_8bit and pca_mixed | layers of rank 24, 20 and 20, which Frappe_x1 bears |
| ptq_8bit, ptq_4bit | 16 wide, 8 or 4 bits, a step per row | 400-400-400 |
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.random_models import (
    DIM,
    VARIANTS,
    field_rows,
    low_rank_model,
    uniform_ids,
    variant_of,
    zipf_ids,
)
from model_store.artifact import NETWORK_FILE, TABLES_FILE, VOCABULARY_FILE
from model_store.manifest import Draft, Network
from model_store.store import ModelStore
from model_store.tensors import write_tensors
from slimctr.export.accounting import count_bytes
from slimctr.export.artifact import PARITY_ATOL, check_parity
from slimctr.export.golden import GOLDEN_ROWS
from slimctr.export.golden_values import MAX_VALUES
from slimctr.export.onnx_network import FoldedNetwork, onnx_bytes
from slimctr.export.tables import store_tables
from slimctr.features import EncodedBatch, FeatureSchema, TextColumn, Vocabulary
from slimctr.networks import CtrModel
from slimctr.scoring import encoder_digest
from slimctr.scoring.golden import Golden, GoldenValues, save_golden


def publish(
    root: Path,
    ids: int,
    variants: Sequence[str] = VARIANTS,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, int]:
    """Publish the missing `variants` of `ids` ids in the store at `root`; return the version of each."""
    store = ModelStore(root)
    console = console or Console(quiet=True)
    name = model_name(ids)
    known = store.labels(name).labels if name in store.models() else {}
    low = None
    with tempfile.TemporaryDirectory(prefix="slimctr-large-") as folder:
        vocabulary = Path(folder) / VOCABULARY_FILE
        for variant in variants:
            if variant in known:
                continue
            if low is None:
                console.print(f"{name}: vocabulary")
                low = low_rank_model(field_rows(ids), seed)
                schema = write_vocabulary(low, vocabulary)
            console.print(f"{name}: {variant}")
            version = publish_model(store, name, variant_of(variant, low), schema, vocabulary, seed)
            store.set_label(name, variant, version)
    return {variant: int(store.labels(name).labels[variant]) for variant in variants}


def model_name(ids: int) -> str:
    """The name of the model of a size, such as large-10M."""
    return f"large-{ids // 1_000_000}M" if ids % 1_000_000 == 0 else f"large-{ids}"


def write_vocabulary(model: CtrModel, path: Path) -> FeatureSchema:
    """Write the vocabulary in which row r of every field is the value str(r)."""
    fields = [{"name": name, "kind": "categorical"} for name in model.spec.field_names]
    schema = FeatureSchema.parse({"fields": fields})
    keys = {
        name: TextColumn.of([b"%d" % row for row in range(1, size)])
        for name, size in zip(model.spec.field_names, model.spec.rows, strict=True)
    }
    Vocabulary.build(schema, keys).save(path)
    return schema


def publish_model(
    store: ModelStore, name: str, model: CtrModel, schema: FeatureSchema, vocabulary: Path, seed: int
) -> int:
    """Publish a model and return its version; refused like any other when the engine scores it differently."""
    golden = EncodedBatch.uncounted(zipf_ids(model.spec.rows, GOLDEN_ROWS, seed))
    with tempfile.TemporaryDirectory(prefix="slimctr-large-") as folder:
        path = Path(folder)
        tables = store_tables(model)
        write_tensors(path / TABLES_FILE, tables.tensors)
        network = FoldedNetwork(model)
        (path / NETWORK_FILE).write_bytes(onnx_bytes(network))
        shutil.copyfile(vocabulary, path / VOCABULARY_FILE)
        with torch.inference_mode():
            logits = model(torch.from_numpy(golden.ids)).numpy()
        base, encoder = encoder_digest(schema, vocabulary)
        values = {
            field: [str(row) if row else "unlisted" for row in column[:MAX_VALUES].tolist()]
            for field, column in zip(schema.names, golden.ids.T, strict=True)
        }
        save_golden(path, Golden(golden, logits), GoldenValues(base, values), schema)
        draft = Draft(
            method=(),
            features=schema.model_dump(mode="json", exclude_defaults=True),
            tables=tables.entries,
            network=Network(width=model.spec.stored_width, opset=network.opset),
            bytes=count_bytes(model.spec, tables, path, DIM, vocabulary.stat().st_size),
            base_vocabulary=base,
            encoder=encoder,
            parity_atol=PARITY_ATOL,
            lineage={"random_weights_of_seed": seed},
        )
        rows = EncodedBatch.uncounted(uniform_ids(model.spec.rows, GOLDEN_ROWS, seed))
        return store.publish(name, path, draft, gate=lambda version: check_parity(model, rows, version))


def main() -> None:
    """Parse the command line and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ids", type=int, default=1_000_000, help="rows of all tables together [1000000]")
    parser.add_argument("--store", type=Path, required=True, help="root of the model store")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.store.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    versions = publish(arguments.store, arguments.ids, arguments.variants, arguments.seed, console)
    store = ModelStore(arguments.store)
    for variant, version in versions.items():
        size = store.manifest(model_name(arguments.ids), version).artifact_bytes
        print(f"{model_name(arguments.ids)}@{version}\t{variant}\t{size / 2**20:,.1f} MiB")


if __name__ == "__main__":
    main()
