"""`magnitude_elements`: which values stay, what they cost, and the same scores in torch and in the engine."""

import numpy as np
import pytest
import torch
from rounding import assert_same_logits, served_logits
from tiny_runs import tiny_dataset, tiny_run

from model_store.store import ModelStore
from service.model_metrics import make_of, table_bytes
from slimctr.compression import compress
from slimctr.compression.magnitude_elements import largest
from slimctr.compression.report import model_bytes
from slimctr.errors import CompressionError
from slimctr.export import publish_run
from slimctr.networks import MaskedTable, TableSpec, build_model
from slimctr.scoring import Scorer
from slimctr.training import load_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return tiny_run(dataset, tmp_path_factory.mktemp("run") / "deepfm", embedding_l2=1e-5)


@pytest.mark.parametrize("value_bits", [16, 32])
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_it_is_tuned_published_and_served(value_bits, ratio, run, dataset, tmp_path):
    settings = {"budget_ratio": ratio, "value_bits": value_bits, "epochs": 1, "learning_rate_factor": 0.3}
    made = compress(run, "magnitude_elements", settings, None, tmp_path / "run")
    start = compress(run, "magnitude_elements", {**settings, "epochs": 0}, None, tmp_path / "start")
    tables, first = made.model.tables, start.model.tables
    statistics = made.lineage.methods[0].statistics
    assert {table.kind for table in made.spec.tables} == {"masked"}
    assert {table.kind for table in made.spec.wide} == {"float"}
    assert statistics["kept_epoch"] == 1
    assert any(not torch.equal(a.values, b.values) for a, b in zip(tables, first, strict=True))
    for tuned, untuned in zip(tables, first, strict=True):
        assert torch.equal(tuned.masks, untuned.masks)
        assert not tuned.dense()[untuned.dense() == 0].any()

    whole = 4 * run.spec.dim * sum(run.spec.rows)
    payload = model_bytes(made.model).tables
    assert ratio * whole - value_bits // 8 < payload <= ratio * whole

    store = ModelStore(tmp_path / "store")
    version = publish_run(made, store, "ctr")
    assert version.manifest.bytes.payload_by_role["embedding"] == payload
    assert sum(table_bytes(version.manifest).values()) == version.manifest.bytes.payload
    assert make_of(version.manifest)["bits"] == str(value_bits)
    scorer = Scorer.open(store.path("ctr", version.version))
    again = load_run(made.path)
    batch = dataset.load("test").batch
    assert_same_logits(scorer.logits(batch), *served_logits(again.model, batch))
    ids = torch.from_numpy(batch.ids[:, 0])
    stored = scorer.lookup(batch)[:, : run.spec.dim]
    assert np.array_equal(stored, again.model.tables[0](ids).detach().numpy())


def test_the_largest_values_of_all_tables_stay(run, tmp_path):
    made = compress(run, "magnitude_elements", {"epochs": 0, "budget_ratio": 0.4}, None, tmp_path / "run")
    kept = [table.dense().detach() for table in made.model.tables]
    whole = [table.weight.detach() for table in run.model.tables]
    for after, before in zip(kept, whole, strict=True):
        assert torch.equal(after[after != 0], before[after != 0])
    smallest = min(float(after[after != 0].abs().min()) for after in kept)
    assert all(float(b[a == 0].abs().max()) <= smallest for a, b in zip(kept, whole, strict=True))
    count = made.lineage.methods[0].statistics["kept_values"]
    assert count == sum(int((after != 0).sum()) for after in kept)


def test_equal_values_are_kept_in_order_and_never_more_than_asked():
    values = np.array([1, 3, 2, 2, 2, 0], np.float32)
    assert largest(values, 3).tolist() == [False, True, True, True, False, False]
    assert largest(values, 6).all()
    assert largest(values, 9).all()
    assert largest(values, 1).tolist() == [False, True, False, False, False, False]


def test_gradients_reach_kept_values_alone():
    weight = torch.arange(1.0, 13.0).reshape(3, 4)
    kept = weight % 3 != 0
    for bits in (16, 32):
        table = MaskedTable.of(weight, kept, bits)
        table(torch.tensor([2, 0, 2])).square().sum().backward()
        dense = torch.zeros(3, 4)
        dense[kept] = table.values.grad
        expected = 2 * weight * torch.tensor([[1.0], [0.0], [2.0]])
        assert torch.equal(dense, torch.where(kept, expected, 0.0))
    table = MaskedTable.of(torch.full((1, 2), 1e-3), torch.ones(1, 2, dtype=torch.bool), 16)
    (2.0**-30 * table(torch.tensor([0]))).sum().backward()
    assert table.values.grad.tolist() == [2.0**-30, 2.0**-30]  # not rounded with the values


def test_a_table_may_lose_every_value(tmp_path, run):
    empty = MaskedTable.of(torch.zeros(5, 3), torch.zeros(5, 3, dtype=torch.bool), 32)
    rows = empty(torch.tensor([4, 0]))
    rows.sum().backward()
    assert rows.tolist() == [[0, 0, 0]] * 2


def test_untrained_first_rows_follow_the_mean_where_they_are_kept():
    table = MaskedTable.of(torch.ones(2, 3), torch.tensor([[True, False, True], [True, True, True]]), 32)
    with torch.no_grad():
        table.set_first_row(torch.tensor([5.0, 6.0, 7.0]))
    assert table.dense().tolist() == [[5, 0, 7], [1, 1, 1]]


def test_masks_that_do_not_fit_their_values_are_refused(run):
    spec = TableSpec(kind="masked", dim=8, kept=3, value_bits=32)
    tables = (spec, *run.spec.tables[1:])
    model = build_model(run.spec.model_copy(update={"tables": tables}))
    state = model.state_dict()
    state["tables.0.masks"][7, 0] = 255
    with pytest.raises(ValueError, match="masks keep 8 values, the table has 3"):
        model.load_state_dict(state)
    for settings in ({"kind": "masked", "dim": 2}, {"dim": 2, "kept": 1}, {"dim": 2, "value_bits": 16}):
        with pytest.raises(ValueError, match="masked table needs"):
            TableSpec(**settings)


ONCE = {"epochs": 0}


@pytest.mark.parametrize(
    ("chain", "settings"),
    [
        ("feature_pca+magnitude_elements", {"feature_pca": {"tables": False}}),
        ("magnitude_elements+svd", {"svd": {"tables": False}}),
        ("magnitude_elements+feature_pca", {"feature_pca": {"tables": False}}),
        ("magnitude_elements+fine_tune", {"fine_tune": {"epochs": 1}}),
        ("magnitude_elements+network_ptq+recalibrate", {"network_ptq": {}, "recalibrate": {}}),
    ],
)
def test_methods_of_the_network_go_with_it(chain, settings, run, dataset, tmp_path):
    settings = {name: {**ONCE, **settings.get(name, {})} for name in chain.split("+")}
    made = compress(run, chain, settings, None, tmp_path / "run")
    assert {table.kind for table in made.spec.tables} == {"masked"}
    store = ModelStore(tmp_path / "store")
    scorer = Scorer.open(store.path("ctr", publish_run(made, store, "ctr").version))
    batch = dataset.load("test").batch
    assert_same_logits(scorer.logits(batch), *served_logits(made.model, batch))


@pytest.mark.parametrize(
    "later",
    ["ptq", "lsq_plus", "lpt", "alpt", "mpe", "frequency_rule", "ham", "magnitude", "magnitude_rows", "svd"],
)
def test_no_other_method_of_tables_follows(later, run, tmp_path):
    settings = {"magnitude_elements": ONCE, later: {"kept_share": 0.5} if later == "frequency_rule" else {}}
    with pytest.raises(CompressionError, match="single values were dropped from its tables"):
        compress(run, f"magnitude_elements+{later}", settings, None, tmp_path / "run")


@pytest.mark.parametrize(
    ("earlier", "settings", "reason"),
    [
        ("ptq", {}, "quantized already"),
        ("magnitude", ONCE, "made its tables smaller already"),
        ("svd", {**ONCE, "table_rank": 2}, "made its tables smaller already"),
        ("magnitude_rows", ONCE, "rows were dropped"),
        ("magnitude_elements", ONCE, "single values were dropped"),
        ("hash_qr", {"epochs": 1}, "quotients and remainders"),
        ("network_ptq", {}, "network are rounded already"),
        ("recalibrate", {}, "calibrated already"),
    ],
)
def test_it_does_not_follow_on(earlier, settings, reason, run, tmp_path):
    made = compress(run, earlier, settings, None, tmp_path / "first")
    with pytest.raises(CompressionError, match=reason):
        compress(made, "magnitude_elements", {}, None, tmp_path / "second")


def test_a_budget_below_the_masks_is_refused(run, tmp_path):
    with pytest.raises(CompressionError, match=r"too small: masks and offsets take \d+"):
        compress(run, "magnitude_elements", {"budget_ratio": 0.03}, None, tmp_path / "run")
