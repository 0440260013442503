"""Low-rank codes of equal size in every column: the same function, and steps per row that fit."""

import numpy as np
import pytest
import torch
from rounding import FEW32, assert_same_logits, exact_logits, network_error

from slimctr.compression import compress
from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.rounding import Rounder
from slimctr.compression.low_precision.start import start_integer_table
from slimctr.compression.method import find_method
from slimctr.compression.quantization import quantize_rows
from slimctr.compression.whitening import whitened
from slimctr.export.artifact import bag_rounding
from slimctr.training import TensorSplit, score


@pytest.fixture(scope="module")
def low_rank(run, tmp_path_factory):
    settings = {"table_rank": 3, "epochs": 0, "mlp": False}
    return compress(run, "feature_pca", settings, None, tmp_path_factory.mktemp("low") / "run")


def test_the_function_stays_and_every_column_has_size_one(low_rank, dataset):
    before = {name: tensor.clone() for name, tensor in low_rank.model.state_dict().items()}
    counts = CompressionData(dataset, low_rank.config).counts
    model = whitened(low_rank.model, counts)
    split = TensorSplit.of(dataset.load("test"))
    before_and_after = (made.lookup(split.ids, split.bags).detach() for made in (low_rank.model, model))
    whole, stored = before_and_after
    error = network_error(model.network, stored, bag_rounding(model, split))
    assert_same_logits(score(model, split), exact_logits(low_rank.model, whole), error)
    found = low_rank.lineage.methods[0].statistics["tables"]
    assert len(found) >= 3
    for field, name in enumerate(low_rank.spec.field_names):
        same = torch.equal(model.tables[field].weight, low_rank.model.tables[field].weight)
        assert same == (name not in found)
        if name in found:
            share = torch.from_numpy(counts[field] / counts[field].sum())
            size = (share @ model.tables[field].weight.double().square()).sqrt()
            assert size.tolist() == pytest.approx([1, 1, 1], rel=FEW32)
            norms = model.expands[field].basis.detach().norm(dim=0).square()
            # eigenvalues are told with six digits
            assert norms.tolist() == pytest.approx(found[name]["eigenvalues"][:3], rel=1e-5)
    after = low_rank.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_column_of_zeros_stays(low_rank, dataset):
    with torch.no_grad():
        flat = whitened(low_rank.model, CompressionData(dataset, low_rank.config).counts)
        flat.tables[0].weight[:, 1] = 0
        again = whitened(flat, CompressionData(dataset, low_rank.config).counts)
    assert torch.isfinite(again.tables[0].weight).all()
    assert torch.equal(again.expands[0].basis[:, 1], flat.expands[0].basis[:, 1])


@pytest.mark.parametrize(("bits", "ratio"), [(2, 0.56), (4, 0.85), (8, 1.55)])
def test_steps_of_rows_lose_less_on_whitened_codes(bits, ratio):
    """Columns whose variances fall by half each: at few bits one step per row does not fit all."""
    sizes = np.sqrt(2.0 ** -np.arange(8)).astype(np.float32)
    codes = np.random.default_rng(1).normal(size=(4000, 8)).astype(np.float32)

    def trained(values):
        rounder = Rounder("deterministic", 1)
        blocks = [torch.from_numpy(values)]
        table = start_integer_table(lambda: iter(blocks), values.shape, bits, "row", None, rounder, 0)
        return table.dense().numpy()

    def error(read):
        white = np.square((read(codes) - codes) * sizes).sum()
        return white / np.square(read(codes * sizes) - codes * sizes).sum()

    assert error(trained) == pytest.approx(ratio, abs=0.01)  # two digits, as docs/compression.md tells them
    assert error(lambda values: quantize_rows(values, bits).values()) < 0.9


def test_alpt_starts_where_the_low_rank_model_was(low_rank, tmp_path):
    """At 16 bits rounding hardly matters: what training starts from scores as the low-rank model did."""
    settings = {
        "start": "trained",
        "epochs": 1,
        "bits": 16,
        "initial_step": 1e-4,
        "rounding": "deterministic",
    }
    made = compress(low_rank, "alpt", settings, None, tmp_path / "run")
    statistics = made.lineage.methods[-1].statistics
    # codes of size 1 move by 1e-4, float16 by 5e-4; a wrong start would cost 0.1 and more
    assert statistics["valid_auc_before"] == pytest.approx(low_rank.metrics["valid"]["auc"], abs=0.002)
    # the best epoch is kept; float16 alone may cost it a little
    assert made.metrics["valid"]["auc"] >= statistics["valid_auc_before"] - 0.002


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_of_low_rank_have_a_step_per_row(bits, low_rank, tmp_path):
    made = compress(low_rank, "alpt", {"start": "trained", "epochs": 1, "bits": bits}, None, tmp_path / "run")
    table = made.model.tables[0]
    assert (table.scale, table.bits, table.codes.shape[1]) == ("row", bits, 3)
    assert [expand.kind for expand in made.spec.expands] == [e.kind for e in low_rank.spec.expands]
    if bits > 2:
        # -0.005 to 0.005 over seeds and instruction sets
        assert made.metrics["test"]["auc"] > low_rank.metrics["test"]["auc"] - 0.05


def test_ptq_takes_either_scale_and_reports_the_error_of_embeddings(low_rank, dataset):
    data, errors = CompressionData(dataset, low_rank.config), {}
    for scale in ("column", "row"):
        method = find_method("ptq")
        outcome = method.apply(low_rank.model, data, method.configure({"bits": 4, "low_rank_scale": scale}))
        assert outcome.model.tables[0].scale == scale
        whole = low_rank.model.expands[0].block()[0].detach()
        before = low_rank.model.tables[0].weight.detach().double() @ whole.double()
        after = (
            outcome.model.tables[0].dense().double() @ outcome.model.expands[0].block()[0].detach().double()
        )
        share = torch.tensor(data.counts[0], dtype=torch.float64)
        expected = share @ (after - before).square().sum(1) / (share @ before.square().sum(1))
        errors[scale] = outcome.statistics["relative_squared_error"]["user"]
        assert errors[scale] == pytest.approx(float(expected), rel=1e-5)  # told with six digits
    assert errors["row"] < errors["column"]
