"""`ham` and the controls of widths on a trained model: budgets, who is read, what is trained, what is refused."""

import copy

import numpy as np
import pytest
import torch
from rounding import assert_same_logits, exact_logits, network_error

from slimctr.compression import chain, compress, find_method, mask_search
from slimctr.compression.column_controls import column_magnitudes
from slimctr.compression.columns import column_budget
from slimctr.compression.data import CompressionData
from slimctr.compression.mask_search import SearchPlan, search_columns
from slimctr.compression.report import model_bytes
from slimctr.compression.verb import fine_tune
from slimctr.errors import CompressionError
from slimctr.training import score

pytestmark = pytest.mark.slow  # trains

QUICK = {
    "orthogonality": 0,
    "search_batch_rows": 500,
    "search_steps": 150,
    "mask_rate": 3.0,
    "price_rate": 0.02,
}
COLUMN_METHODS = {"ham": QUICK, "magnitude": {}, "random_columns": {}}


@pytest.fixture(scope="module")
def data(dataset, run):
    return CompressionData(dataset, run.config)


def apply(model, data, name, **settings):
    method = find_method(name)
    return method.apply(model, data, method.configure(settings))


def plan(**changes):
    settings = {"batch_rows": 500, "steps": 40, "mask_rate": 3.0, "price_rate": 0.02, "mode": "frozen"}
    return SearchPlan(**{**settings, "weight_rate_factor": 0.1, **changes})


@pytest.mark.parametrize("name", COLUMN_METHODS)
@pytest.mark.parametrize("cost", ["bytes", "dims"])
@pytest.mark.parametrize("ratio", [0.5, 0.25])
def test_every_column_method_uses_its_budget_and_no_more(run, data, name, cost, ratio):
    outcome = apply(run.model, data, name, budget_ratio=ratio, cost=cost, **COLUMN_METHODS[name])
    spec = outcome.model.spec
    widths = np.array([table.dim for table in spec.tables])
    kept = outcome.statistics[f"{cost}_kept"]
    weights = np.array(spec.rows) if cost == "bytes" else np.ones(5)
    assert kept == pytest.approx(widths @ weights / (8 * weights.sum()))
    assert (
        ratio - weights.max() / (8 * weights.sum()) < kept <= ratio
    )  # less is left than the dearest column costs
    assert widths.min() >= 1
    for field, columns in enumerate(outcome.statistics["columns"].values()):
        assert spec.tables[field].dim == len(columns)
        assert (spec.expands[field].columns or tuple(range(8))) == tuple(columns)
        source = run.model.tables[field].weight[:, columns]
        assert torch.equal(outcome.model.tables[field].weight, source)


def test_bytes_of_fewer_columns_are_counted(run, data):
    smaller = apply(run.model, data, "magnitude", budget_ratio=0.5).model
    counted, whole = model_bytes(smaller), model_bytes(run.model)
    pruned = [expand.columns for expand in smaller.spec.expands if expand.columns]
    floats = sum(n * table.dim for n, table in zip(run.spec.rows, smaller.spec.tables, strict=True))
    assert counted.tables == 4 * floats <= whole.tables / 2
    assert counted.network == whole.network + 2 * sum(map(len, pruned))


class Train(CompressionData):
    """A data set whose validation and test rows may not be read."""

    def __init__(self, data):
        super().__init__(data.dataset, data.training)
        self.split = {"train": data.split("train")}.__getitem__


@pytest.mark.parametrize("mode", ["frozen", "alternating"])
def test_the_mask_is_moved_by_training_rows_alone(run, data, mode):
    outcome = apply(run.model, Train(data), "ham", **{**QUICK, "mode": mode, "search_steps": 20})
    assert outcome.statistics["search"]["steps"] == 20


def test_the_search_keeps_better_columns_than_chance(run, data):
    """Before any training: log-loss of what the search keeps, against three random draws of the same bytes."""
    valid = data.split("valid")

    def loss(model):
        logits = torch.from_numpy(score(model, valid))
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, valid.labels))

    found = loss(apply(run.model, data, "ham", **{**QUICK, "search_steps": 400}).model)
    drawn = [loss(apply(run.model, data, "random_columns", draw=draw).model) for draw in range(3)]
    assert found < min(drawn)


def test_a_frozen_search_leaves_the_model_as_it_was_and_tells_its_course(run, data):
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    budget = column_budget(run.spec, 0.5, "bytes")
    found = search_columns(run.model, data, budget, plan(steps=250))
    again = search_columns(run.model, data, budget, plan(steps=250))
    torch.testing.assert_close(dict(run.model.state_dict()), before, rtol=0, atol=0)
    assert np.array_equal(found.mask, again.mask)
    assert run.model.expands.is_identity
    course = found.statistics
    assert [point["step"] for point in course["trajectory"]] == [1, 100, 200]
    assert course["trajectory"][0]["widths"] == [8] * 5
    assert course["trajectory"][1]["price"] > 0
    assert course["trajectory"][2]["cost"] < 1
    assert course["trajectory"][2]["logloss"] > 0
    gentle = search_columns(run.model, data, budget, plan(steps=1, mask_rate=1e-6)).statistics["trajectory"]
    fierce = search_columns(run.model, data, budget, plan(steps=1, mask_rate=1e9)).statistics["trajectory"]
    assert (gentle[0]["clipped"], fierce[0]["clipped"]) == (0.0, 1.0)
    # the last batch of a pass is shorter
    assert course["passes_over_training_rows"] == pytest.approx(
        250 * 500 / len(data.split("train")), rel=0.05
    )
    assert not course["settled"]


def test_a_search_ends_when_what_it_would_keep_is_settled(run, data, monkeypatch):
    monkeypatch.setattr(mask_search, "FEWEST_STEPS", 60)
    monkeypatch.setattr(mask_search, "SETTLED_STEPS", 25)
    budget = column_budget(run.spec, 0.5, "bytes")
    course = search_columns(run.model, data, budget, plan(batch_rows=200, steps=3_000)).statistics
    assert course["settled"]
    assert course["steps"] == max(60, course["unchanged_since_step"] + 25) < 3_000


def test_an_alternating_search_trains_a_copy_and_spares_dead_columns(run, data):
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    outcome = apply(run.model, data, "ham", **{**QUICK, "mode": "alternating", "search_steps": 30})
    torch.testing.assert_close(dict(run.model.state_dict()), before, rtol=0, atol=0)
    field, expand = next((i, e) for i, e in enumerate(outcome.model.spec.expands) if e.columns)
    assert not torch.equal(
        outcome.model.tables[field].weight, run.model.tables[field].weight[:, expand.columns]
    )


def test_dead_columns_neither_learn_nor_decay(run, data):
    model = copy.deepcopy(run.model)
    model.expands = mask_search.MaskedColumns(model.spec.code_width)
    model.expands.mask[3] = 0.0
    config = run.config.changed(embedding_l2=0.1)
    steps = mask_search._WeightSteps(model, config, plan())
    steps.take(data.split("train").take(torch.arange(200)))
    moved = (model.tables[0].weight != run.model.tables[0].weight).any(dim=0)
    assert moved.tolist() == [True, True, True, False, True, True, True, True]


def test_a_supernet_is_trained_with_the_regularity_and_its_cost_is_told(run, data):
    outcome = apply(run.model, data, "ham", **{**QUICK, "orthogonality": 0.1, "search_steps": 5})
    supernet = outcome.statistics["supernet"]
    assert supernet["epochs"] == run.config.epochs
    assert supernet["valid_auc"] > 0.7  # trained as the run: 0.77 to 0.84 over seeds and instruction sets
    assert supernet["valid_auc"] != run.metrics["valid"]["auc"]
    assert outcome.statistics["batch_norm_batches"] > 0


def test_projection_starts_as_scatter_and_is_trained(run, data):
    scatter = apply(run.model, data, "ham", **QUICK)
    projection = apply(run.model, data, "ham", alignment="projection", **QUICK)
    valid = data.split("valid")
    stored = scatter.model.lookup(valid.ids, valid.bags).detach()
    assert torch.equal(projection.model.lookup(valid.ids, valid.bags), stored)
    error = network_error(projection.model.network, stored)
    assert_same_logits(score(projection.model, valid), exact_logits(scatter.model, stored), error)
    field = next(i for i, e in enumerate(projection.model.spec.expands) if e.kind == "projection")
    before = projection.model.expands[field].weight.detach().clone()
    config = find_method("ham").configure({"epochs": 1, "alignment": "projection"})
    fine_tune(projection.model, config, data)
    assert not torch.equal(projection.model.expands[field].weight, before)


def test_fresh_weights_have_the_columns_found_and_the_whole_schedule(run, data):
    inherited = apply(run.model, data, "ham", **QUICK).model
    fresh = apply(run.model, data, "ham", retrain="fresh", **QUICK).model
    assert fresh.spec == inherited.spec
    assert fresh.tables[0].weight.std() < 0.1 * inherited.tables[0].weight.std()
    method = find_method("ham")
    assert method.configure({"retrain": "fresh"}).retraining(run.config) == run.config
    tuned = method.configure({}).retraining(run.config)
    assert (tuned.epochs, tuned.learning_rate) == (2, pytest.approx(0.1 * run.config.learning_rate))
    shorter = method.configure({"retrain": "fresh", "epochs": 1, "learning_rate_factor": 0.5})
    assert shorter.retraining(run.config).learning_rate == pytest.approx(0.5 * run.config.learning_rate)
    assert method.configure({"epochs": 0}).retraining(run.config) is None
    for wrong in ({"epochs": 0}, {"train_codes": False}):
        with pytest.raises(CompressionError, match="starts from initial weights"):
            method.configure({"retrain": "fresh", **wrong})


def test_magnitudes_count_rows_as_often_as_training_reads_them():
    table, counts = np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([1, 3])
    np.testing.assert_allclose(column_magnitudes(table, counts), [np.sqrt(9 / 4), np.sqrt(3 / 4)])
    expected = np.repeat(table, counts, axis=0)
    np.testing.assert_allclose(column_magnitudes(table, counts), np.sqrt(np.square(expected).mean(axis=0)))


def test_random_draws_differ_and_repeat(run, data):
    drawn = [apply(run.model, data, "random_columns", draw=draw).model.spec for draw in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_small_dim_is_a_narrower_network_trained_in_full(run, data):
    outcome = apply(run.model, data, "small_dim", budget_ratio=0.3)
    assert outcome.model.spec.dim == outcome.statistics["dim"] == 2
    assert outcome.model.spec.layers[0].inputs == 10
    assert model_bytes(outcome.model).tables == 4 * 2 * sum(run.spec.rows)
    config = find_method("small_dim").configure({})
    assert config.retraining(run.config) == run.config
    assert apply(run.model, data, "small_dim", dim=7).model.spec.dim == 7
    with pytest.raises(CompressionError, match=r"not available: 0\.1 of 8 columns"):
        apply(run.model, data, "small_dim", budget_ratio=0.1)
    with pytest.raises(CompressionError, match="not below the embedding width 8"):
        apply(run.model, data, "small_dim", dim=8)
    with pytest.raises(CompressionError, match="train_codes=false"):
        find_method("small_dim").configure({"train_codes": False})


@pytest.mark.parametrize("name", COLUMN_METHODS)
def test_columns_are_taken_once_and_from_whole_float_tables(run, data, name):
    settings = COLUMN_METHODS[name]
    low_rank = apply(run.model, data, "feature_pca", mlp=False).model
    with pytest.raises(CompressionError, match="low rank already"):
        apply(low_rank, data, name, **settings)
    with pytest.raises(CompressionError, match=r"quantize after, as in 'ham\+ptq'"):
        apply(apply(run.model, data, "ptq").model, data, name, **settings)
    with pytest.raises(CompressionError, match="columns were taken from its tables already"):
        apply(apply(run.model, data, "magnitude").model, data, name, **settings)
    with pytest.raises(CompressionError, match=r"budget_ratio is too small: 0\.1 of 8 columns"):
        apply(run.model, data, name, budget_ratio=0.1, **settings)


def test_a_supernet_does_not_throw_factored_layers_away(run, data):
    factored = apply(run.model, data, "feature_pca", tables=False).model
    with pytest.raises(CompressionError, match="set orthogonality=0"):
        apply(factored, data, "ham")
    assert apply(factored, data, "ham", **QUICK).model.spec.layers == factored.spec.layers
    with pytest.raises(CompressionError, match="from scratch"):
        apply(factored, data, "small_dim")


def test_ptq_after_ham_quantizes_the_kept_columns(run, data):
    pruned = apply(run.model, data, "magnitude").model
    coded = apply(pruned, data, "ptq").model
    for before, after in zip(pruned.spec.tables, coded.spec.tables, strict=True):
        assert after.dim == before.dim
        assert after.scale == ("row" if before.dim == 8 else "column")
    exact, close = (score(model, data.split("valid")) for model in (pruned, coded))
    assert np.square(close - exact).mean() < 0.01 * exact.var()  # 255 steps: about 1e-5 of a table's variance


@pytest.mark.parametrize("alignment", ["scatter", "projection"])
def test_low_rank_of_pruned_tables_only_where_two_columns_or_more_go(run, data, alignment):
    pruned = apply(run.model, data, "ham", alignment=alignment, **QUICK).model
    factored = apply(pruned, data, "feature_pca", table_rank=2, mlp=False)
    changed = []
    for rows, before, after in zip(
        run.spec.rows, pruned.spec.tables, factored.model.spec.tables, strict=True
    ):
        pays = 2 * rows + 2 * 8 + 8 < before.dim * rows and before.dim > 3
        assert after.dim == (2 if pays else before.dim)
        changed.append(pays)
    assert len(set(changed)) == 2


def test_ham_runs_in_a_chain_from_run_to_run(run, tmp_path):
    settings = {"ham": {**QUICK, "search_steps": 30, "epochs": 1, "budget_ratio": 0.3}, "ptq": {"bits": 8}}
    smaller = compress(run, "ham+ptq", settings, None, tmp_path / "run")
    assert [step.method for step in smaller.lineage.methods] == ["ham", "ptq"]
    assert smaller.lineage.methods[0].statistics["bytes_kept"] <= 0.3
    assert smaller.lineage.methods[0].settings["cost"] == "bytes"
    assert chain("ham", {"budget_ratio": 0.3})[0].config.budget_ratio == 0.3
