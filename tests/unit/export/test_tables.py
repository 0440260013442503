"""Which codec each table gets, in which columns, with which bytes."""

import numpy as np
import torch

from slimctr.compression.data import CompressionData
from slimctr.compression.method import find_method
from slimctr.export.packing import unpack_codes
from slimctr.export.tables import store_tables


def compressed(run, dataset, *steps):
    model = run.model
    for name, settings in steps:
        method = find_method(name)
        model = method.apply(model, CompressionData(dataset, run.config), method.configure(settings)).model
    return model


def test_float_tables_are_stored_as_they_are(run):
    stored = store_tables(run.model)
    assert {entry.codec for entry in stored.entries} == {"float32"}
    assert [entry.column for entry in stored.entries] == [0, 8, 16, 24, 32, 40, 41, 42, 43, 44]
    np.testing.assert_array_equal(
        stored.tensors["embedding.user"], run.model.tables[0].weight.detach().numpy()
    )
    assert stored.payload_by_role == {"embedding": 32 * sum(run.spec.rows), "wide": 4 * sum(run.spec.rows)}
    assert stored.scale_bytes == 0


def test_rows_of_8_bits_are_records_of_12_bytes(run, dataset):
    stored = store_tables(compressed(run, dataset, ("ptq", {"wide_bits": 32})))
    assert stored.entries[0].codec == "int8_row"
    assert stored.tensors["embedding.user"].shape == (run.spec.rows[0], 8 + 4)
    assert stored.payload_by_role["embedding"] == 12 * sum(run.spec.rows)


def test_rows_of_4_bits_are_planes_with_their_step_behind(run, dataset):
    model = compressed(run, dataset, ("ptq", {"bits": 4}))
    stored = store_tables(model)
    entry = stored.entries[1]
    assert (entry.codec, entry.scale, entry.layout) == ("packed", "row", "planes")
    assert entry.segments[0].model_dump() == {
        "bits": 4,
        "start_row": 0,
        "rows": run.spec.rows[1],
        "byte_base": 0,
    }
    records = stored.tensors["embedding.item"].reshape(run.spec.rows[1], 4 + 4)
    codes = unpack_codes(records[:, :4], 8, 4, "planes")
    np.testing.assert_array_equal(codes, model.tables[1].codes.numpy())
    np.testing.assert_array_equal(records[:, 4:6].copy().view("<f2")[:, 0], model.tables[1].scales.numpy())


def test_low_rank_codes_have_steps_of_columns_beside_them(run, dataset):
    model = compressed(run, dataset, ("feature_pca", {"table_rank": 3}), ("ptq", {"bits": 4}))
    stored = store_tables(model)
    entry = stored.entries[0]
    assert (entry.codec, entry.scale, entry.layout, entry.dim) == ("packed", "column", "stream", 3)
    assert stored.tensors["embedding.user"].nbytes == 2 * run.spec.rows[0]
    np.testing.assert_array_equal(stored.tensors[entry.scales], model.tables[0].scales.numpy())
    columns = sum(entry.dim for entry in stored.entries if entry.scale == "column")
    assert stored.scale_bytes == 8 * columns


def test_first_order_codes_take_one_byte_a_row(run, dataset):
    stored = store_tables(compressed(run, dataset, ("ptq", {})))
    entry = stored.entries[-1]
    assert (entry.role, entry.codec, entry.dim, entry.layout) == ("wide", "packed", 1, "stream")
    assert stored.payload_by_role["wide"] == sum(run.spec.rows)


def test_columns_cover_the_stored_matrix(run, dataset):
    model = compressed(run, dataset, ("feature_pca", {"table_rank": 3}))
    stored = store_tables(model)
    covered = np.zeros(model.spec.stored_width, dtype=int)
    for entry in stored.entries:
        covered[entry.column : entry.column + entry.dim] += 1
    assert (covered == 1).all()
    assert model.lookup(torch.zeros(1, 3, dtype=torch.int32), _one_bags()).shape == (1, len(covered))


def _one_bags():
    return [(torch.tensor([1]), torch.tensor([0, 1]))] * 2
