"""`hash_qr`: whole-number division, sums and products, published and served."""

import numpy as np
import pytest
import torch
from rounding import assert_same_logits, served_logits

from model_store.store import ModelStore
from slimctr.compression import compress
from slimctr.errors import CompressionError
from slimctr.export import publish_run
from slimctr.native.lookup import RowSegment, StoredTable, TableLookup
from slimctr.networks import QuotientRemainderTable
from slimctr.scoring import Scorer


@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("divisor", [2, 7])
def test_it_is_trained_published_and_served(run, dataset, tmp_path, combine, divisor):
    made = compress(run, "hash_qr", {"divisor": divisor, "combine": combine}, None, tmp_path / "run")
    kinds = [table.kind for table in made.spec.tables]
    assert kinds.count("quotient_remainder") >= 3
    assert "float" in kinds  # weekday has too few values
    assert made.metrics["valid"]["auc"] > 0.6
    store = ModelStore(tmp_path / "store")
    version = publish_run(made, store, "ctr")
    sizes = version.manifest.bytes
    rows = sum(
        n if kind == "float" else -(-n // divisor) + divisor
        for n, kind in zip(made.spec.rows, kinds, strict=True)
    )
    assert sizes.payload_by_role["embedding"] == 4 * made.spec.dim * rows
    scorer = Scorer.open(store.path("ctr", version.version))
    batch = dataset.load("test").batch
    assert_same_logits(scorer.logits(batch), *served_logits(made.model, batch))


def test_rows_are_divided_as_whole_numbers():
    table = QuotientRemainderTable(30_000_003, 1, 1_000_000, "sum")
    with torch.no_grad():
        table.quotient.copy_(torch.arange(31.0)[:, None])
        table.remainder.zero_()
    ids = torch.tensor([29_999_999, 30_000_000, 16_777_217, 999_999])
    assert table(ids).flatten().tolist() == [29, 30, 16, 0]


@pytest.mark.parametrize("multiplies", [False, True])
def test_the_kernel_reads_every_row(multiplies):
    rng = np.random.default_rng(4)
    for rows, divisor, dim in ((10, 3, 1), (100, 8, 70), (7, 7, 16)):
        quotients = rng.normal(size=(-(-rows // divisor), dim)).astype(np.float32)
        remainders = rng.normal(size=(divisor, dim)).astype(np.float32)
        codes = np.concatenate([quotients, remainders]).reshape(-1).view(np.uint8)
        settings = {"rows": rows, "dim": dim, "column": 0, "source": 0}
        table = StoredTable(
            "quotient_remainder",
            codes,
            (RowSegment(0, rows, 0, 4 * dim),),
            **settings,
            divisor=divisor,
            multiplies=multiplies,
        )
        ids = np.array([*range(rows), -1, rows, 2**31 - 1], np.int32)
        inside = np.where((ids < 0) | (ids >= rows), 0, ids)
        pairs = quotients[inside // divisor], remainders[inside % divisor]
        expected = pairs[0] * pairs[1] if multiplies else pairs[0] + pairs[1]
        assert np.array_equal(TableLookup([table], dim)(ids[:, None], []), expected)
        short = StoredTable(
            "quotient_remainder",
            codes[4:],
            table.segments,
            **settings,
            divisor=divisor,
            multiplies=multiplies,
        )
        with pytest.raises(ValueError, match="quotients and remainders"):
            TableLookup([short], dim)
        with pytest.raises(ValueError, match="divisor"):
            TableLookup([StoredTable("float32", codes, table.segments, **settings, divisor=2)], dim)


def test_chains_and_divisors_that_make_no_sense_are_refused(run, tmp_path):
    with pytest.raises(CompressionError, match="from scratch"):
        compress(run, "ptq+hash_qr", {}, None, tmp_path / "a")
    with pytest.raises(CompressionError, match="gets smaller"):
        compress(run, "hash_qr", {"divisor": 100_000}, None, tmp_path / "b")
