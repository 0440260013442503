from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from slimctr.clicklogs.mixing import hashed_position
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.splits import RowSplits, SplitRule, find_split_files
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import FeatureSchema, Field

SCHEMA = FeatureSchema(fields=(Field(name="row", kind="categorical"),))


class CountingLog:
    """A log of numbered rows in batches of a chosen size."""

    def __init__(self, rows: int, batch_rows: int):
        self.fraction = 0.0
        self._rows = rows
        self._batch_rows = batch_rows

    def infer_schema(self):
        return SCHEMA

    def batches(self, schema, errors):
        for start in range(0, self._rows, self._batch_rows):
            rows = range(start, min(start + self._batch_rows, self._rows))
            columns = [pa.array([0] * len(rows), pa.int8()), pa.array([str(row) for row in rows])]
            yield pa.RecordBatch.from_arrays(columns, names=["label", "row"])


def rows_by_split(log: RowSplits, only: str | None = None) -> dict[str, list[int]]:
    for _ in log.measure(SCHEMA, ParseErrors()):
        pass
    found: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for split, batch in log.batches(SCHEMA, ParseErrors(), only):
        found[split] += [int(value) for value in batch.column("row").to_pylist()]
    return found


def test_hash_split_has_the_shares_and_ignores_batching():
    rule = SplitRule((0.8, 0.1, 0.1), "hash", seed=5)
    found = rows_by_split(RowSplits(CountingLog(20_000, 700), rule))
    assert sorted(found["train"] + found["valid"] + found["test"]) == list(range(20_000))
    for name, share in (("train", 0.8), ("valid", 0.1)):
        error = 5 * (20_000 * share * (1 - share)) ** 0.5  # five standard errors of a count
        assert len(found[name]) == pytest.approx(20_000 * share, abs=error)
    assert found == rows_by_split(RowSplits(CountingLog(20_000, 33), rule))


def test_seeds_split_differently():
    one, two = (rows_by_split(RowSplits(CountingLog(2_000, 500), SplitRule(seed=seed))) for seed in (1, 2))
    assert len(set(one["test"]) & set(two["test"])) < 0.3 * len(one["test"])


def test_time_split_keeps_file_order():
    found = rows_by_split(RowSplits(CountingLog(1_000, 77), SplitRule((0.7, 0.2, 0.1), "time")))
    assert found == {
        "train": list(range(700)),
        "valid": list(range(700, 900)),
        "test": list(range(900, 1_000)),
    }


def test_only_leaves_the_other_splits_out():
    log = RowSplits(CountingLog(1_000, 100), SplitRule())
    everything, train = rows_by_split(log), rows_by_split(log, only="train")
    assert train == {"train": everything["train"], "valid": [], "test": []}


def test_hashed_positions_are_uniform():
    places = hashed_position(np.arange(100_000, dtype=np.uint64), seed=0)
    histogram, _ = np.histogram(places, bins=20, range=(0, 1))
    assert histogram.sum() == 100_000
    assert np.abs(histogram - 5_000).max() < 350  # five standard errors of a twentieth of 100,000


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.2), (1.0, 0.0, 0.0), (0.9, 0.2, -0.1)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ConfigError, match="sum is 1"):
        SplitRule(shares)


def test_a_seed_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="seed -1"):
        SplitRule(seed=-1)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("x")
    return folder


def test_files_are_found_by_word_and_shards_by_order(tmp_path):
    make(
        tmp_path,
        *(
            "Train-1.csv",
            "train-0.csv.gz",
            "dev.csv.zst",
            "my_test.csv",
            "README.md",
            "SHA256SUMS",
            "constraints.txt",
        ),
    )
    found = {split: [path.name for path in paths] for split, paths in find_split_files(tmp_path).items()}
    assert found == {
        "train": ["Train-1.csv", "train-0.csv.gz"],
        "valid": ["dev.csv.zst"],
        "test": ["my_test.csv"],
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "test.csv"], "no file for valid"),
        (["train.csv", "valid.csv", "test.csv", "train.csv.gz"], "there twice"),
        (["train.csv", "valid.csv", "test.csv", "train_test.csv"], r"names two splits \(train, test\)"),
        (["contest.csv"], "no file for train, valid, test"),
    ],
)
def test_unclear_folders_are_refused(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(LogFormatError, match=message):
        find_split_files(tmp_path)
