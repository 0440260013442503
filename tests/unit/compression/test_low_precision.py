"""`lpt`, `alpt` and `lsq_plus` from run to run: what is stored, what training kept, chains they refuse."""

import numpy as np
import pytest
import torch

from slimctr.compression import chain, compress
from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.rounding import Rounder
from slimctr.compression.low_precision.start import start_integer_table
from slimctr.compression.low_precision.stored import set_untrained_oov_row, stored_integer_table
from slimctr.compression.method import find_method
from slimctr.compression.report import model_bytes
from slimctr.errors import CompressionError
from slimctr.networks import HalfTable, TableSpec
from slimctr.training import load_run

pytestmark = pytest.mark.slow  # trains

QUICK = {"epochs": 1}


def outcome(run, dataset, name, **settings):
    method = find_method(name)
    data = CompressionData(dataset, run.config)
    with torch.random.fork_rng(devices=[]):
        return method.apply(run.model, data, method.configure({**QUICK, **settings}))


def integer_table(bits, scope, step, rows=30, dim=6, deviation=0.05):
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(2)) * deviation
    rounder = Rounder("stochastic", 1)
    return start_integer_table(lambda: iter([values]), (rows, dim), bits, scope, step, rounder, 0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_stored_rows_read_step_times_code_exactly(bits):
    table = integer_table(bits, "row", None)
    table.steps.mul_(torch.rand(30, generator=torch.Generator().manual_seed(1)) + 0.5)
    stored = stored_integer_table(table, "user")
    codes, steps = table.codes_of(torch.arange(30)), table.steps.half().float().unsqueeze(1)
    assert torch.equal(stored.dense(), steps * codes.float())
    assert torch.equal(stored.codes.int() - 2 ** (bits - 1), codes)
    assert (stored.bits, stored.scale) == (bits, "row")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_step_is_stored_once_per_column_and_read_exactly(bits):
    table = integer_table(bits, "table", float(np.float16(0.01)))
    stored = stored_integer_table(table, "user")
    assert torch.equal(stored.dense(), table.dense())
    assert stored.scales.shape == (6,)


def test_sixteen_bits_are_stored_as_the_nearest_float16():
    table = integer_table(16, "row", None)
    stored = stored_integer_table(table, "user")
    assert isinstance(stored, HalfTable)
    assert torch.equal(stored.weight, table.dense().half())


def test_values_beyond_float16_are_refused():
    with pytest.raises(CompressionError, match="field 'user' has grown beyond float16"):
        stored_integer_table(integer_table(8, "row", 600.0, deviation=9e4), "user")


@pytest.mark.parametrize(("bits", "scope"), [(2, "row"), (4, "row"), (8, "row"), (16, "row"), (8, "table")])
def test_an_untrained_oov_row_is_set_to_the_mean_of_use(bits, scope):
    table = integer_table(bits, scope, 0.004 if scope == "table" else None)
    counts = np.arange(30)
    others = table.codes[1:].clone()
    mean = (counts / counts.sum()) @ table.dense().double().numpy()
    set_untrained_oov_row(table, counts)
    read = table.dense()[0].double().numpy()
    covering = max(mean.max() / (2 ** (bits - 1) - 1), -mean.min() / 2 ** (bits - 1))
    step = 0.004 if scope == "table" else covering
    assert np.abs(read - mean).max() <= 0.5 * step * (
        1 + 2**-10
    )  # half a step, which float16 may make larger
    assert torch.equal(table.codes[1:], others)
    before = table.codes.clone()
    set_untrained_oov_row(table, np.ones(30, np.int64))
    assert torch.equal(table.codes, before)


@pytest.mark.parametrize(
    ("method", "settings", "bytes_per_row"),
    [
        ("alpt", {}, 12),
        ("alpt", {"bits": 4}, 8),
        ("alpt", {"bits": 2}, 6),
        ("alpt", {"bits": 16}, 16),
        ("lpt", {}, 8),
        ("lpt", {"bits": 2}, 2),
        ("lpt", {"bits": 16}, 16),
        ("lsq_plus", {}, 6),
        ("lsq_plus", {"bits": 1, "start": "fresh"}, 1),
    ],
)
def test_a_row_takes_its_bytes(run, dataset, method, settings, bytes_per_row):
    model = outcome(run, dataset, method, **settings).model
    rows = sum(run.spec.rows)
    counted = model_bytes(model)
    assert (counted.tables, counted.wide) == (bytes_per_row * rows, rows)


def test_first_order_tables_stay_float_when_asked(run, dataset):
    for method in ("alpt", "lsq_plus"):
        model = outcome(run, dataset, method, wide_bits=32).model
        assert model_bytes(model).wide == 4 * sum(run.spec.rows)


def test_a_run_is_written_with_its_epochs_and_training_bytes(run, tmp_path):
    settings = {"epochs": 2, "row_optimizer": "row_adagrad", "row_rate_factor": 10}
    compress(run, "alpt", settings, None, tmp_path / "run")
    again = load_run(tmp_path / "run")
    step = again.lineage.methods[0]
    rows = sum(run.spec.rows)
    assert step.statistics["kept_epoch"] in (1, 2)
    assert step.statistics["training_bytes"] == {
        "codes": 8 * rows,
        "steps": 4 * rows,
        "row_optimizer": 8 * rows,
        "float_table_with_adam": 12 * 8 * rows,
    }
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2
    assert again.spec.tables[0] == TableSpec(kind="quantized", dim=8, bits=8, scale="row")


def test_training_starts_fresh_or_from_the_run(run, dataset):
    for method in ("lpt", "alpt", "lsq_plus"):
        rates = {
            start: outcome(run, dataset, method, start=start).history[0].learning_rate
            for start in ("fresh", "trained")
        }
        assert rates == pytest.approx({"fresh": 0.01, "trained": 0.001})
    before = outcome(run, dataset, "alpt", start="trained").statistics["valid_auc_before"]
    # 8 bits lose about 1e-5 of a table's variance: 0.0013 of the AUC at most over seeds and instruction sets
    assert before == pytest.approx(run.metrics["valid"]["auc"], abs=0.01)


def test_training_that_does_not_help_is_undone(run, dataset):
    result = outcome(run, dataset, "alpt", start="trained", learning_rate_factor=1e3)
    assert result.statistics["kept_epoch"] == 0
    share = np.mean(
        [
            (stored.dense() - table.weight).abs().mean().item() / table.weight.abs().mean().item()
            for stored, table in zip(result.model.tables, run.model.tables, strict=True)
        ]
    )
    assert share < 0.1


def test_the_same_seed_gives_the_same_codes(run, dataset):
    for method in ("alpt", "lsq_plus"):
        first, again = (outcome(run, dataset, method, start="fresh").model.state_dict() for _ in range(2))
        torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_a_step_too_coarse_for_the_updates_stops_deterministic_rounding_only(run, dataset):
    """Updates of Adam at 1e-4 are far below half a step of 0.01: to the nearest, no code ever moves."""
    settings = {"learning_rate_factor": 0.01, "initial_deviation": 0.001}
    codes = {
        rounding: outcome(run, dataset, "lpt", rounding=rounding, **settings).model.tables[0].codes
        for rounding in ("deterministic", "stochastic")
    }
    assert (codes["deterministic"][1:] == 128).all()
    assert (codes["stochastic"][1:] != 128).any()


def test_lsq_plus_shares_steps_over_all_tables_or_within_a_field(run, dataset):
    everywhere = outcome(run, dataset, "lsq_plus").model.tables
    assert len({float(table.scales[0]) for table in everywhere}) == 1
    within = outcome(run, dataset, "lsq_plus", step_scope="field").model.tables
    assert len({float(table.scales[0]) for table in within}) == len(within)
    for table in (*everywhere, *within):
        assert len(table.scales.unique()) == 1


def test_lsq_plus_on_low_rank_codes_has_a_step_per_column(run, tmp_path):
    settings = {"feature_pca": {"table_rank": 3, "epochs": 0, "mlp": False}, "lsq_plus": QUICK}
    small = compress(run, "feature_pca+lsq_plus", settings, None, tmp_path / "run")
    table = small.model.tables[0]
    assert (table.scale, table.bits, table.codes.shape[1]) == ("column", 6, 3)
    assert len(table.scales.unique()) == 3
    # -0.011 to 0.004 over seeds and instruction sets
    assert small.metrics["test"]["auc"] > run.metrics["test"]["auc"] - 0.08


def test_a_factored_mlp_is_kept_by_a_start_from_the_run(run, tmp_path):
    settings = {"feature_pca": {"tables": False, "epochs": 0}, "alpt": {**QUICK, "start": "trained"}}
    small = compress(run, "feature_pca+alpt", settings, None, tmp_path / "run")
    assert {layer.kind for layer in small.spec.layers} == {"linear", "pair_linear"}
    assert small.lineage.methods[1].statistics["valid_auc_before"] > 0.7


HAM = {"orthogonality": 0, "search_steps": 20, "epochs": 0, "budget_ratio": 0.5}


@pytest.mark.parametrize(
    ("method", "settings"), [("alpt", {}), ("lpt", {"bits": 4}), ("lsq_plus", {"step_scope": "field"})]
)
def test_the_columns_that_ham_kept_are_trained_as_codes(method, settings, run, tmp_path):
    settings = {"ham": HAM, method: {**QUICK, **settings}}
    small = compress(run, f"ham+{method}", settings, None, tmp_path / "run")
    assert {table.kind for table in small.spec.tables} == {"quantized"}
    assert len({table.dim for table in small.spec.tables}) > 1
    assert [expand.columns and len(expand.columns) for expand in small.spec.expands] == [
        table.dim if table.dim < 8 else None for table in small.spec.tables
    ]
    assert small.metrics["test"]["auc"] > 0.6


def test_tables_of_different_width_do_not_share_an_offset(run, tmp_path):
    with pytest.raises(CompressionError, match=r"differ in width.*step_scope=field"):
        compress(run, "ham+lsq_plus", {"ham": HAM}, None, tmp_path / "run")


@pytest.mark.parametrize("method", ["lpt", "alpt", "lsq_plus"])
def test_quantized_tables_are_refused(method, run, dataset, tmp_path):
    for text in (f"ptq+{method}", f"alpt+{method}" if method != "alpt" else "lpt+alpt"):
        settings = {name: QUICK for name in text.split("+") if name != "ptq"}
        with pytest.raises(CompressionError, match="quantized already"):
            compress(run, text, settings, None, tmp_path / "run")


@pytest.mark.parametrize("later", ["ptq", "svd", "feature_pca", "ham"])
@pytest.mark.parametrize("bits", [8, 16])
def test_nothing_follows_on_integer_tables(later, bits, run, tmp_path):
    with pytest.raises(CompressionError, match="quantized already"):
        compress(run, f"alpt+{later}", {"alpt": {**QUICK, "bits": bits}}, None, tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        ("feature_pca+lpt", {}, "alpt takes a step per row of whitened codes"),
        ("feature_pca+lpt", {"lpt": {"start": "trained"}}, "ptq and lsq_plus take a step per column"),
        ("feature_pca+alpt", {"feature_pca": {"mlp": False}}, "trained bases.*set start=trained"),
        (
            "feature_pca+lsq_plus",
            {"feature_pca": {"mlp": False}, "lsq_plus": {"start": "fresh"}},
            "trained bases.*set start=trained",
        ),
        ("ham+alpt", {"ham": {**HAM, "alignment": "projection"}}, "trained bases.*set start=trained"),
        ("feature_pca+alpt", {"feature_pca": {"tables": False}}, "MLP is factored.*set start=trained"),
    ],
)
def test_chains_that_would_undo_each_other_are_refused(text, settings, reason, run, tmp_path):
    first = text.split("+")[0]
    settings = {**settings, first: {"epochs": 0, **settings.get(first, {})}}
    with pytest.raises(CompressionError, match=reason):
        compress(run, text, settings, None, tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("alpt", {"bits": 1}, "'bits'"),
        ("lpt", {"step": 1e-6}, "'step'"),
        ("lsq_plus", {"bits": 9}, "'bits'"),
        ("alpt", {"epochs": 0}, "'epochs'"),
        ("lsq_plus", {"train_codes": False}, "'train_codes'"),
        ("lpt", {"initial_step": 0.1}, "no setting 'initial_step'"),
    ],
)
def test_settings_are_checked(method, settings, message):
    with pytest.raises(CompressionError, match=message):
        chain(method, settings)
