"""`mpe` and `frequency_rule`: groups, quantizers, selection, and the tables that come out."""

import numpy as np
import pytest
import torch
from rounding import EXP_UNITS, FEW32, gamma

from slimctr.compression import compress
from slimctr.compression.method import find_method
from slimctr.compression.mixed_precision.groups import chosen_bits, frequency_groups, rows_within
from slimctr.compression.mixed_precision.retraining import mixed_table, start_rows
from slimctr.errors import CompressionError
from slimctr.networks import FloatTable, MixedTable, RowMap
from slimctr.networks.mixed_training import Quantizers, RowWidthTable, SearchTable, WidthChoice

pytestmark = pytest.mark.slow  # trains

WIDTHS = 7


def test_groups_are_of_equal_size_rarest_first_and_the_least_weight_is_one():
    rng = np.random.default_rng(1)
    counts = [rng.zipf(1.5, size) - 1 for size in (100, 37, 500)]
    groups = frequency_groups(counts, 16)
    of_row, every = np.concatenate(groups.of_row), np.concatenate(counts)
    sizes = np.bincount(of_row)
    assert set(sizes[:-1]) == {-(-len(every) // 16)}
    assert 0 < sizes[-1] <= sizes[0]
    assert groups.weights.min() == 1
    for earlier, later in zip(range(15), range(1, 16), strict=True):
        assert max(every[of_row == earlier].max(), 1) <= max(every[of_row == later].min(), 1)
    again = frequency_groups(counts, 16)
    assert all(np.array_equal(a, b) for a, b in zip(groups.of_row, again.of_row, strict=True))


def test_counts_beyond_float32_keep_their_order():
    counts = [np.array([2**24, 2**24 + 1, 5, 2**24 + 2])]
    assert frequency_groups(counts, 4).of_row[0].tolist() == [1, 2, 0, 3]


def quantizers(step=0.05, offset=0.01, most=6, values=4, dim=4):
    return Quantizers(torch.full((most, 1), step), torch.full((dim,), offset), values)


def test_the_quantizer_and_its_gradients_are_those_of_the_paper():
    """v = (.06, -.74, 3.8, -6.2) at 2 bits; a step sees (-.06, -.26, 1, -2), an offset (0, 0, 1, 1)."""
    maps = quantizers()
    rows = torch.tensor([[0.013, -0.027, 0.2, -0.3]], requires_grad=True)
    for read in (
        maps.at_width(rows, 2),
        maps.at_widths(rows, torch.tensor([2], dtype=torch.uint8)),
    ):
        for tensor in (rows, maps.steps, maps.offset):
            tensor.grad = None
        read.sum().backward()
        expected = torch.tensor([[0.01, -0.04, 0.06, -0.09]])
        torch.testing.assert_close(read.detach(), expected, rtol=0, atol=FEW32)
        assert torch.equal(rows.grad, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
        scale = (2 * 4) ** -0.5
        torch.testing.assert_close(
            maps.steps.grad[1], torch.tensor([scale * (-0.06 - 0.26 + 1 - 2)]), rtol=0, atol=6.2 * FEW32
        )
        expected = scale * torch.tensor([0.0, 0.0, 1.0, 1.0])
        torch.testing.assert_close(maps.offset.grad, expected, rtol=FEW32, atol=0)


def test_no_bits_read_zeros_and_not_the_offset():
    maps = quantizers()
    rows = torch.randn(3, 4)
    assert not maps.at_width(rows, 0).any()
    assert not maps.at_widths(rows, torch.zeros(3, dtype=torch.uint8)).any()
    one_bit = maps.at_width(torch.tensor([[9.0, -9.0, 0.011, -0.03]]), 1)
    expected = torch.tensor([[0.01, -0.04, 0.01, -0.04]])
    torch.testing.assert_close(one_bit.detach(), expected, rtol=0, atol=FEW32)


def test_searching_reads_the_mixture_of_the_copies():
    maps, choice = quantizers(), WidthChoice(2, 6, 3e-3)
    choice.logits.data = torch.randn(2, WIDTHS, generator=torch.Generator().manual_seed(4)) * 3e-3
    weight = torch.randn(5, 4) * 0.1
    groups = torch.tensor([0, 1, 1, 0, 1], dtype=torch.int16)
    table = SearchTable(weight.clone(), groups, maps, choice, None)
    ids = torch.tensor([4, 0, 3, 3])
    shares = choice.probabilities()[groups[ids].long()]
    expected = sum(shares[:, b, None] * maps.at_width(weight[ids], b) for b in range(1, WIDTHS))
    torch.testing.assert_close(table(ids), expected, rtol=0, atol=FEW32)
    table(ids).square().sum().backward()
    assert choice.logits.grad.abs().sum() > 0
    summed = FEW32 * 2 * table(ids).square().sum() / 3e-3  # of gradients about as large, over the temperature
    assert choice.logits.grad.sum(dim=1).abs().max() <= summed


def test_the_cost_of_precision_falls_fastest_in_rare_groups():
    """p and f of the specification: 0.7 bits over 1 plus 3.8 bits over 50 make 0.676."""
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1, 0, 0, 0], [0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3]])
    choice = WidthChoice(2, 6, 1.0)
    choice.logits.data = torch.log(p + 1e-12)
    price = 1 / torch.tensor([1.0, 50.0])
    cost = (choice.expected_bits() * price).sum()
    # the softmax of logarithms down to that of 1e-12
    assert float(cost.detach()) == pytest.approx(0.676, abs=gamma(EXP_UNITS + WIDTHS) * 2 * 28)
    cost.backward()
    assert choice.logits.grad[0].abs().max() > 5 * choice.logits.grad[1].abs().max()


def test_selection_takes_the_largest_width_that_is_likely_enough():
    p = np.array(
        [
            [0.80, 0, 0, 0, 0, 0.12, 0.08],
            [0.90, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01],
            [1 - 1 / 14, 0, 0, 1 / 14, 0, 0, 0],
            [1 / 7] * 7,
        ]
    )
    assert chosen_bits(p, "threshold").tolist() == [6, 0, 3, 6]
    assert chosen_bits(p, "argmax").tolist() == [0, 0, 0, 0]
    rng = np.random.default_rng(5)
    drawn = rng.dirichlet(np.ones(WIDTHS) * 0.3, size=500)
    brute = [max(b for b in range(WIDTHS) if row[b] >= 1 / 14) for row in drawn]
    assert chosen_bits(drawn, "threshold").tolist() == brute


def test_the_most_frequent_rows_stay():
    kept = rows_within([np.array([5, 1, 9]), np.array([5, 7])], 3)
    assert [k.tolist() for k in kept] == [[True, False, True], [False, True]]


def test_stored_codes_read_like_the_table_in_training():
    maps = quantizers(dim=5, values=200)
    weight = torch.randn(12, 5) * 0.1
    bits = np.array([3, 6, 6, 6, 2, 2, 1, 1, 1, 1, 1, 0], np.uint8)
    training = RowWidthTable(weight.clone(), torch.from_numpy(bits), maps, None)
    stored = mixed_table(weight, bits, maps, None)
    assert stored.segments == ((3, 1), (6, 3), (2, 2), (1, 5), (0, 1))
    every = torch.arange(12)
    torch.testing.assert_close(stored(every), training(every).detach(), rtol=0, atol=FEW32)
    assert not stored(every[-1:]).any()


@pytest.fixture(scope="module")
def searched(run, tmp_path_factory):
    settings = {"epochs": 2, "precision_cost": 3e-3, "groups": 32}
    return compress(run, "mpe", settings, None, tmp_path_factory.mktemp("mpe") / "run")


def test_a_search_drops_rows_and_keeps_their_order(searched, dataset):
    step = searched.lineage.methods[-1].statistics
    assert 0 < step["kept_rows"] < step["rows"]
    for name, table, row_map, rows in zip(
        searched.spec.field_names,
        searched.model.tables,
        searched.model.row_maps,
        searched.spec.rows,
        strict=True,
    ):
        assert isinstance(table, MixedTable)
        assert isinstance(row_map, RowMap)
        stored, counts = row_map.stored.numpy(), dataset.counts(name)
        assert stored[0] == 0
        assert len(stored) == rows
        widths = np.repeat([b for b, _ in table.segments], [n for _, n in table.segments])
        assert (np.diff(widths[1:].astype(int)) <= 0).all()
        kept = np.flatnonzero(stored < len(widths) - 1)
        by_place = sorted(kept[kept > 0], key=lambda row: stored[row])
        keys = [(-int(widths[stored[row]]), -int(counts[row]), row) for row in by_place]
        assert keys == sorted(keys)
        assert not table(torch.tensor([len(widths) - 1])).any()


def test_a_search_that_scores_below_its_start_has_searched_all_the_same(run, tmp_path):
    """At this rate the epoch of the mixture is worse than trained rows at 6 bits, and must not be undone for it."""
    settings = {
        "start": "trained",
        "epochs": 1,
        "precision_cost": 10.0,
        "groups": 16,
        "learning_rate_factor": 10.0,
    }
    priced = compress(run, "mpe", settings, None, tmp_path / "run")
    step = priced.lineage.methods[-1].statistics
    assert step["search"]["best_valid_auc"] < step["search"]["valid_auc_before"]
    assert step["search"]["kept_epoch"] == 1
    assert step["mean_bits"] < 5


def test_rows_are_rewound_bit_for_bit(run, dataset):
    from slimctr.compression.data import CompressionData

    config = find_method("mpe").configure({})
    data = CompressionData(dataset, run.config)
    once, again = start_rows(run.model, data, config), start_rows(run.model, data, config)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], run.model.tables[0].weight)
    trained = start_rows(run.model, data, find_method("mpe").configure({"start": "trained"}))
    assert torch.equal(trained[0], run.model.tables[0].weight)


@pytest.mark.parametrize("zero_rows", ["keyed", "zero", "oov"])
def test_the_frequency_rule_keeps_its_budget(run, tmp_path, zero_rows):
    settings = {"kept_share": 0.3, "start": "trained", "epochs": 1, "zero_rows": zero_rows}
    made = compress(run, "frequency_rule", settings, None, tmp_path / "run")
    step = made.lineage.methods[-1].statistics
    fields = len(run.spec.rows)
    assert abs(step["kept_rows"] - 0.3 * step["rows"]) <= fields + 1
    for row_map, table in zip(made.model.row_maps, made.model.tables, strict=True):
        zero = row_map.zero_row
        assert (zero is None) == (zero_rows == "oov")
        if zero is not None:
            assert not table(torch.tensor([zero])).any()
    for first_order in made.model.wide:
        assert not isinstance(first_order, FloatTable)


def test_chains_that_lose_something_are_refused(run, searched, tmp_path):
    for method, settings, reason in (
        ("ptq", {}, "quantized already"),
        ("svd", {}, "rows were dropped"),
        ("ham", {}, "rows were dropped"),
        ("alpt", {}, "rows were dropped"),
    ):
        with pytest.raises(CompressionError, match=reason):
            compress(searched, method, settings, None, tmp_path / method)
    after = compress(searched, "svd", {"tables": False, "epochs": 0}, None, tmp_path / "layers")
    assert after.spec.row_maps == searched.spec.row_maps
    for settings, reason in (({}, "give mean_bits"), ({"mean_bits": 7.0}, "above the 6 bits")):
        with pytest.raises(CompressionError, match=reason):
            compress(run, "frequency_rule", settings, None, tmp_path / "none")


def test_low_rank_codes_and_kept_columns_are_quantized_by_column(run, tmp_path):
    settings = {
        "mpe": {"start": "trained", "epochs": 1, "groups": 16},
        "feature_pca": {"table_rank": 3, "epochs": 0},
    }
    low = compress(run, "feature_pca+mpe", settings, None, tmp_path / "low")
    assert low.lineage.methods[-1].statistics["zero_value"] == "mean"
    settings = {"mpe": {"start": "trained", "epochs": 1, "groups": 16}, "magnitude": {"epochs": 0}}
    narrow = compress(run, "magnitude+mpe", settings, None, tmp_path / "narrow")
    assert narrow.metrics["valid"]["auc"] > 0.5
