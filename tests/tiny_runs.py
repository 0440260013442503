"""A small click log with every kind of field, and models trained on it in a second: for tests of compression."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from slimctr.clicklogs import Dataset, PrepareSettings, prepare
from slimctr.training import Run, TrainConfig, train

ROWS = 8_000
SIZES = {"user": 300, "item": 150, "weekday": 4, "tags": 40, "parts": 25}
POOLING = {"tags": "mean", "parts": "sum"}


def tiny_dataset(folder: Path) -> Dataset:
    """Write and encode a log of 8,000 rows: three single fields (one with missing values) and two bags."""
    rng = np.random.default_rng(7)
    bias = {name: rng.normal(size=size) for name, size in SIZES.items()}
    latent = {name: rng.normal(scale=0.9, size=(size, 3)) for name, size in SIZES.items()}
    popularity = {name: 1 / np.arange(1, size + 1) ** 0.8 for name, size in SIZES.items()}
    columns, total, squares, first = {}, np.zeros((ROWS, 3)), np.zeros(ROWS), np.zeros(ROWS)
    for name, size in SIZES.items():
        chances = popularity[name] / popularity[name].sum()
        lengths = rng.integers(1, 4, ROWS) if name in POOLING else np.ones(ROWS, np.int64)
        values = rng.choice(size, int(lengths.sum()), p=chances)
        owner = np.repeat(np.arange(ROWS), lengths)
        vectors = np.zeros((ROWS, 3))
        np.add.at(first, owner, bias[name][values])
        np.add.at(vectors, owner, latent[name][values])
        if POOLING.get(name) == "mean":
            vectors /= lengths[:, None]
        total += vectors
        squares += np.square(vectors).sum(1)
        if name in POOLING:
            columns[name] = pa.array(
                [list(map(str, part)) for part in np.split(values, lengths.cumsum()[:-1])]
            )
        else:
            texts = values.astype(str).astype(object)
            texts[rng.random(ROWS) < (0.03 if name == "item" else 0)] = None
            columns[name] = pa.array(texts, pa.string())
    logits = 0.5 * (np.square(total).sum(1) - squares) + first - 0.5
    clicked = (rng.random(ROWS) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"clicked": clicked, **columns}), folder / "log.parquet")
    fields = [
        {
            "name": name,
            "kind": "categorical",
            "multivalued": name in POOLING,
            "pooling": POOLING.get(name, "mean"),
        }
        for name in SIZES
    ]
    (folder / "schema.yaml").write_text(yaml.safe_dump({"fields": fields}))
    settings = PrepareSettings("parquet", folder / "log.parquet", "clicked", folder / "schema.yaml")
    return prepare(settings, folder / "data")


def tiny_run(dataset: Dataset, out: Path, network: str = "deepfm", **settings: object) -> Run:
    """Train a small network on it for three epochs."""
    config = TrainConfig.resolve(
        {
            "network": network,
            "dim": 8,
            "epochs": 3,
            "batch_rows": 256,
            "learning_rate": 0.01,
            "params": {"hidden": [48, 40, 32]},
        },
        settings,
    )
    return train(config, dataset.path, out)
