"""The logs that training is measured on: real ones where a data folder has them, synthetic ones always."""

import random
from pathlib import Path

import pyarrow as pa

from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.clicklogs.splits import SplitRule
from slimctr.clicklogs.synthetic import SyntheticSpec

REAL = {"criteo": "criteo_kaggle_first8k", "avazu": "avazu_first9k", "movielens 1 %": "ml-1m_ctr"}
SYNTHETIC = {
    "synthetic 25 %, 10k": (10_000, 0.25),
    "synthetic 25 %, 100k": (100_000, 0.25),
    "synthetic 1 %, 30k": (30_000, 0.01),
    "synthetic 1 %, 300k": (300_000, 0.01),
    "synthetic 0.3 %, 200k": (200_000, 0.003),
}
"""Rows of all splits and click rate; 80 % of the rows are for training, and ids come from 100,000 values."""
THINNED = {"train": 240_000, "valid": 40_000, "test": 40_000}
"""Rows of the MovieLens slice: drawn negatives, and so many drawn positives that 1 % are clicks."""


def available(root: Path | None) -> dict[str, str | None]:
    """Return the logs that can be prepared: name to folder under `root`, None for a synthetic one."""
    real = {name: folder for name, folder in REAL.items() if root is not None and (root / folder).is_dir()}
    return {**real, **dict.fromkeys(SYNTHETIC)}


def prepared(name: str, root: Path | None, work: Path) -> Path:
    """Encode a log under the work folder unless it is there; return the encoded data set."""
    folder = work / "data" / name.replace(" ", "_").replace("%", "percent").replace(",", "")
    if (folder / "dataset.json").is_file():
        return folder
    if name in SYNTHETIC:
        rows, rate = SYNTHETIC[name]
        spec = SyntheticSpec(rows=rows, ids=100_000, seed=1, click_rate=rate)
        settings = PrepareSettings("synthetic", split=SplitRule((0.8, 0.1, 0.1), "hash", 0), synthetic=spec)
    elif name == "movielens 1 %":
        settings = PrepareSettings("csv", _rare_movielens(root / REAL[name], work / "movielens_rare"))
    else:
        settings = PrepareSettings(name, root / REAL[name])
    prepare(settings, folder)
    return folder


def _rare_movielens(source: Path, target: Path) -> Path:
    """Write the slice of MovieLens with 1 % clicks, drawn from seed 1; return its folder."""
    target.mkdir(parents=True, exist_ok=True)
    for split, rows in THINNED.items():
        header, *lines = _lines(source / f"{split}.csv.zst")
        draw = random.Random(1)
        clicks = [line for line in lines if line.startswith("1")]
        others = [line for line in lines if not line.startswith("1")]
        drawn = draw.sample(others, round(0.99 * rows)) + draw.sample(clicks, round(0.01 * rows))
        draw.shuffle(drawn)
        (target / f"{split}.csv").write_text("\n".join([header, *drawn]) + "\n")
    return target


def _lines(path: Path) -> list[str]:
    with pa.input_stream(path, compression="zstd") as file:
        return file.read().decode().splitlines()
