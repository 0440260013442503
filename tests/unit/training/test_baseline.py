"""The logistic regression that `train` puts beside its result, against scikit-learn's on the same one-hot rows."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from slimctr import quality
from slimctr.features import FeatureSchema
from slimctr.training import TensorSplit, baseline, train
from slimctr.training.baseline import fit_regression

SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "user", "kind": "categorical"},
            {"name": "tags", "kind": "categorical", "multivalued": True, "pooling": "sum"},
            {"name": "item", "kind": "categorical"},
        ]
    }
)
ROWS = [30, 12, 8]


def drawn(seed, count, least=0):
    """A split whose clicks follow user, item and tags, and its rows as a matrix of counts."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(least, 30, count), rng.integers(0, 8, count)], axis=1).astype(np.int32)
    lengths = rng.integers(1, 4, count)
    values = rng.integers(0, 12, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    counts = np.zeros((count, sum(ROWS)))
    counts[np.arange(count), ids[:, 0]] = 1
    counts[np.arange(count), 42 + ids[:, 1]] = 1
    np.add.at(counts, (np.repeat(np.arange(count), lengths), 30 + values), 1)
    true = np.random.default_rng(0).normal(size=sum(ROWS))
    labels = (rng.random(count) < 1 / (1 + np.exp(1.5 - counts @ true))).astype(np.float32)
    bag = (torch.from_numpy(values), torch.from_numpy(offsets))
    return TensorSplit(torch.from_numpy(ids), (bag,), torch.from_numpy(labels)), counts


def test_it_is_the_regression_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(baseline, "PENALTIES", (0.1,))
    (split, counts), (valid, valid_counts) = drawn(1, 3000), drawn(2, 1000)
    found = fit_regression(split, valid, SCHEMA, ROWS, seed=1)
    expected = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit(counts, split.labels.numpy())
    # both stop near the minimum: 30 steps of L-BFGS in float32 come within a hundredth of a logit of 1.5 deviation
    np.testing.assert_allclose(found.logits(valid), expected.decision_function(valid_counts), atol=0.02)


def test_validation_rows_choose_the_penalty(monkeypatch):
    (split, _), (valid, _) = drawn(1, 300), drawn(2, 1000)
    losses = []
    for penalty in baseline.PENALTIES:
        monkeypatch.setattr(baseline, "PENALTIES", (penalty,))
        logits = fit_regression(split, valid, SCHEMA, ROWS, seed=1).logits(valid)
        losses.append(quality.logloss(valid.labels.numpy(), logits))
    monkeypatch.undo()
    chosen = fit_regression(split, valid, SCHEMA, ROWS, seed=1).logits(valid)
    # a fit that starts from another ends within a thousandth of a nat of the one that starts from zeros
    assert quality.logloss(valid.labels.numpy(), chosen) == pytest.approx(min(losses), abs=1e-3)


def test_a_value_that_it_did_not_meet_adds_nothing():
    (split, _), (valid, _) = drawn(1, 500, least=1), drawn(2, 200, least=1)
    found = fit_regression(split, valid, SCHEMA, ROWS, seed=1)
    bag = (torch.tensor([0]), torch.tensor([0, 1]))
    unmet = TensorSplit(torch.zeros(1, 2, dtype=torch.int32), (bag,), torch.ones(1))
    parts = dict(zip(found.values.tolist(), found.weights.tolist(), strict=True))
    assert 0 not in parts
    expected = parts[30] + parts[42] + float(found.bias)
    # a sum of three float32 numbers
    assert found.logits(unmet)[0] == pytest.approx(expected, abs=1e-5)


def test_a_large_split_is_drawn_from(monkeypatch):
    monkeypatch.setattr(baseline, "MOST_ROWS", 400)
    (split, _), (valid, _) = drawn(1, 5000), drawn(2, 1000)
    logits = fit_regression(split, valid, SCHEMA, ROWS, seed=1).logits(valid)
    assert np.array_equal(logits, fit_regression(split, valid, SCHEMA, ROWS, seed=1).logits(valid))
    assert quality.ne(valid.labels.numpy(), logits) < 1


def test_train_keeps_its_figures_beside_those_of_the_run(config, click_data, tmp_path):
    plain = train(config.changed(epochs=1), click_data, tmp_path / "plain")
    beside = train(config.changed(epochs=1), click_data, tmp_path / "beside", baseline=True)
    assert plain.sha256 == beside.sha256
    kept = json.loads((tmp_path / "beside" / "metrics.json").read_text())
    for split in ("valid", "test"):
        figures = kept[split]
        assert figures.items() >= dict(plain.metrics[split]).items()
        assert figures["lr_ne"] < 1
        gain = figures["auc"] - figures["lr_auc"]
        assert figures["lr_auc_gain"] == pytest.approx(gain, abs=1e-9)  # float64, another order of sums
        assert figures["auc_error"] > 0
