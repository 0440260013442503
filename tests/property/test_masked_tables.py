"""Masked tables of any shape: the bytes of the format, and every row read back to the last bit."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_tables import masked_table

from model_store.codecs import mask_bytes, masked_bytes
from slimctr.export.packing import masked_codes
from slimctr.native.lookup import RowSegment, StoredTable, TableLookup
from slimctr.native.masked import check_index
from slimctr.networks import MaskedTable


@settings(deadline=None)
@given(
    rows=st.integers(1, 70),
    dim=st.sampled_from([1, 7, 8, 9, 16, 63, 64, 65, 130]),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    bits=st.sampled_from([16, 32]),
    pooling=st.sampled_from(["single", "mean", "sum"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_packed_is_read(rows, dim, share, bits, pooling, seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, dim)).astype(np.float32)
    kept = rng.random((rows, dim)) < share
    table = MaskedTable.of(torch.from_numpy(weight), torch.from_numpy(kept), bits)
    stored = weight.astype(np.float16 if bits == 16 else np.float32)
    expected = np.where(kept, stored.astype(np.float32), np.float32(0))
    assert np.array_equal(table.dense().detach().numpy(), expected)

    codes = masked_codes(table.masks.numpy(), table.values.detach().numpy().astype(stored.dtype))
    assert np.array_equal(codes, masked_table(stored, kept))
    assert codes.size == masked_bytes(rows, dim, int(kept.sum()), bits)
    check_index(codes, rows, dim, int(kept.sum()))

    whole = (RowSegment(0, rows, 0, mask_bytes(dim)),)
    lookup = TableLookup([StoredTable(f"masked_{stored.dtype}", codes, whole, rows, dim, 0, 0, pooling)], dim)
    ids = np.concatenate([rng.integers(0, rows, 40), [-1, rows, 2**31 - 1]]).astype(np.int32)
    inside = np.where((ids < 0) | (ids >= rows), 0, ids)
    if pooling == "single":
        assert np.array_equal(lookup(ids[:, None], []), expected[inside])
        return
    got = lookup(np.zeros((2, 0), np.int32), [(ids, np.array([0, 3, len(ids)], np.int32))])
    for row, bag in enumerate((inside[:3], inside[3:])):
        total = expected[bag[0]].copy()
        for other in bag[1:]:
            total += expected[other]
        assert np.array_equal(got[row], total / np.float32(len(bag)) if pooling == "mean" else total)
