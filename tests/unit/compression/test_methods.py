"""Each method on a trained model: shapes, what stays whole, quantized reads, refusals with their reasons."""

import copy

import numpy as np
import pytest
import torch
from rounding import SUMS64

from slimctr.compression import METHODS, find_method
from slimctr.compression.data import CompressionData
from slimctr.compression.feature_pca import output_moments
from slimctr.compression.low_rank import layer_ranks
from slimctr.errors import CompressionError
from slimctr.training import score


@pytest.fixture(scope="module")
def data(dataset, run):
    return CompressionData(dataset, run.config)


def apply(run, data, name, **settings):
    method = find_method(name)
    return method.apply(run.model, data, method.configure(settings))


def test_uniform_rank_leaves_small_fields_whole(run, data):
    outcome = apply(run, data, "feature_pca", table_rank=3, mlp=False)
    kinds = dict(zip(outcome.model.spec.field_names, outcome.model.spec.expands, strict=True))
    ranks = {name: expand.rank for name, expand in kinds.items()}
    assert ranks == {"user": 3, "item": 3, "weekday": None, "tags": 3, "parts": 3}
    assert outcome.statistics["whole_tables"] == ["weekday"]
    assert len(outcome.statistics["tables"]["user"]["eigenvalues"]) == 8
    assert all(layer.kind == "linear" for layer in outcome.model.spec.layers)


def test_reconstruction_is_the_best_of_its_rank_for_training_use(run, data):
    errors = {}
    for name in ("feature_pca", "svd"):
        model = apply(run, data, name, table_rank=3, mlp=False).model
        back = model.expands[0].basis @ model.tables[0].weight.T + model.expands[0].mean[:, None]
        difference = back.T.detach().numpy() - run.model.tables[0].weight.detach().numpy()
        errors[name] = float(data.counts[0] @ np.square(difference).sum(1))
    assert errors["feature_pca"] < errors["svd"]


def test_svd_weighted_and_centered_is_feature_pca_on_tables(run, data):
    by_pca = apply(run, data, "feature_pca", table_rank=3, mlp=False).model
    by_svd = apply(run, data, "svd", table_rank=3, mlp=False, weighted=True, centered=True).model
    for name, tensor in by_pca.state_dict().items():
        assert torch.equal(by_svd.state_dict()[name], tensor), name


def test_summed_field_has_no_mean(run, data):
    model = apply(run, data, "feature_pca", table_rank=3, mlp=False).model
    means = dict(zip(model.spec.field_names, [getattr(e, "mean", None) for e in model.expands], strict=True))
    assert not means["parts"].any()
    assert means["tags"].any()


def test_high_rank_hardly_changes_scores(run, data):
    exact = score(run.model, data.split("valid"))
    close = score(apply(run, data, "feature_pca", table_rank=7, mlp=False).model, data.split("valid"))
    far = score(apply(run, data, "feature_pca", table_rank=1, mlp=False).model, data.split("valid"))
    assert np.abs(close - exact).mean() < 0.25 * np.abs(far - exact).mean()


def test_mlp_ranks_follow_the_ratio_and_skip_layers_that_would_grow(run, data):
    method = find_method("feature_pca")
    assert layer_ranks(run.spec, method.configure({"mlp_rank_ratio": 0.25})) == {1: 10, 2: 8}
    assert layer_ranks(run.spec, method.configure({"mlp_rank_ratio": 0.25, "first_layer_ratio": 0.125})) == {
        0: 6,
        1: 10,
        2: 8,
    }
    assert layer_ranks(run.spec, method.configure({"mlp_rank_ratio": 0.9})) == {}
    assert layer_ranks(run.spec, method.configure({"mlp": False})) == {}


def test_factored_layers_reproduce_the_projected_outputs(run, data):
    outcome = apply(run, data, "feature_pca", tables=False, mlp_rank_ratio=0.25)
    kinds = [layer.kind for layer in outcome.model.spec.layers]
    assert kinds == ["linear", "pair_linear", "pair_linear"]
    assert outcome.statistics["layers"] == {"2": {"rank": 10}, "3": {"rank": 8}}
    assert outcome.statistics["statistics_rows"] == len(data.split("train"))


def test_layer_statistics_are_of_the_evaluation_mode(run, data):
    train, model = data.split("train"), copy.deepcopy(run.model).double()
    moments = output_moments(model, [1], [train.take(part) for part in torch.arange(1200).split(500)])[1]
    outputs = []
    hook = model.backbone.mlp.blocks[1].linear.register_forward_hook(lambda m, i, o: outputs.append(o))
    batch = train.take(torch.arange(1200))
    with torch.no_grad():
        model(batch.ids, batch.bags)
    hook.remove()
    expected = outputs[0].numpy()
    assert moments.weight == 1200
    np.testing.assert_allclose(moments.mean, expected.mean(axis=0), rtol=0, atol=SUMS64)
    np.testing.assert_allclose(moments.covariance, np.cov(expected.T, ddof=0), rtol=0, atol=SUMS64)


def test_energy_and_greedy_give_ranks_of_their_own(run, data):
    energy = apply(run, data, "feature_pca", rank_policy="energy", energy=0.7, mlp=False)
    greedy = apply(run, data, "feature_pca", rank_policy="greedy", table_budget=0.4, mlp=False)
    floats = sum(
        4 * table.dim * rows for table, rows in zip(greedy.model.spec.tables, run.spec.rows, strict=True)
    )
    assert floats <= 0.4 * 4 * 8 * sum(run.spec.rows)
    assert len({table["rank"] for table in greedy.statistics["tables"].values()}) > 1
    for name, table in energy.statistics["tables"].items():
        held = np.cumsum(table["eigenvalues"]) / np.sum(table["eigenvalues"])
        assert held[table["rank"] - 1] >= 0.7 - 1e-5, name  # eigenvalues are told with six digits


def test_ptq_rows_read_close_to_the_table(run, data):
    errors = []
    for bits in (8, 4, 2):
        model = apply(run, data, "ptq", bits=bits).model
        assert {table.scale for table in model.spec.tables} == {"row"}
        errors.append(float((model.tables[0].dense() - run.model.tables[0].weight.detach()).square().mean()))
    assert errors[0] < errors[1] / 50 < errors[2] / 100


def test_ptq_gives_low_rank_codes_a_step_per_column(run, data):
    low_rank = apply(run, data, "feature_pca", table_rank=3, mlp=False).model
    method = find_method("ptq")
    model = method.apply(low_rank, data, method.configure({})).model
    scales = dict(zip(model.spec.field_names, [table.scale for table in model.spec.tables], strict=True))
    assert scales == {
        "user": "column",
        "item": "column",
        "weekday": "row",
        "tags": "column",
        "parts": "column",
    }


def test_first_order_tables_share_one_step_or_stay_float(run, data):
    coded = apply(run, data, "ptq").model.spec.wide[0]
    assert (coded.kind, coded.bits, coded.scale, coded.dim) == ("quantized", 8, "column", 1)
    assert apply(run, data, "ptq", wide_bits=32).model.spec.wide[0].kind == "float"


def test_a_table_of_infinities_is_refused_by_name(run, data):
    weight = run.model.tables[1].weight
    kept = weight.detach()[3, 2].clone()
    with torch.no_grad():
        weight[3, 2] = float("inf")
    try:
        with pytest.raises(CompressionError, match="field 'item' cannot be quantized"):
            apply(run, data, "ptq")
    finally:
        with torch.no_grad():
            weight[3, 2] = kept


@pytest.mark.parametrize("first", ["ptq", "feature_pca"])
@pytest.mark.parametrize("second", ["ptq", "feature_pca", "svd"])
def test_illegal_chains_are_refused_with_the_reason(run, data, first, second):
    model = apply(run, data, first).model
    method = find_method(second)
    if (first, second) == ("feature_pca", "ptq"):
        method.apply(model, data, method.configure({}))
        return
    reason = {
        ("ptq", "ptq"): "quantized already",
        ("ptq", "feature_pca"): "factor first and quantize after",
        ("ptq", "svd"): "factor first and quantize after",
        ("feature_pca", "feature_pca"): "low rank already",
        ("feature_pca", "svd"): "low rank already",
    }[first, second]
    with pytest.raises(CompressionError, match=reason):
        method.apply(model, data, method.configure({}))


def test_mlp_may_be_factored_after_quantizing_tables(run, data):
    model = apply(run, data, "ptq").model
    method = find_method("feature_pca")
    smaller = method.apply(model, data, method.configure({"tables": False})).model
    assert smaller.spec.layers[1].kind == "pair_linear"
    with pytest.raises(CompressionError, match="MLP is factored already"):
        method.apply(smaller, data, method.configure({"tables": False}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tabel_rank": 3}, "did you mean 'table_rank'"),
        ({"table_rank": 0}, "setting 'table_rank'"),
        ({"rank_policy": "best"}, "setting 'rank_policy'"),
        ({"mlp_rank_ratio": 1.5}, "setting 'mlp_rank_ratio'"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, message):
    with pytest.raises(CompressionError, match=message):
        find_method("feature_pca").configure(settings)


def test_settings_that_do_nothing_are_refused(run, data):
    with pytest.raises(CompressionError, match="nothing to factor"):
        apply(run, data, "svd", tables=False, mlp=False)
    with pytest.raises(CompressionError, match="not below the embedding width 8"):
        apply(run, data, "svd", table_rank=8)
    with pytest.raises(CompressionError, match="gets smaller"):
        apply(run, data, "svd", tables=False, mlp_rank_ratio=0.9)


def test_unknown_method_names_the_nearest():
    with pytest.raises(CompressionError, match="did you mean 'feature_pca'"):
        find_method("feature_pc")
    assert {"svd", "feature_pca", "ptq", "ham"} <= set(METHODS)
