"""`network_ptq`, `recalibrate` and `fine_tune`: what they leave in torch, and what is published of it."""

import numpy as np
import pytest
import torch
from rounding import auc_error, gamma

from slimctr import quality
from slimctr.compression import compress
from slimctr.compression.recalibrate import fitted_calibration
from slimctr.errors import CompressionError
from slimctr.networks.folding import coded_maps, folded, rounded_matrix
from slimctr.training import Silent, evaluate, load_run


def test_rounding_has_least_error_and_a_whole_number_of_steps():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    for bits, most in ((8, 127), (4, 7)):
        codes, scales = rounded_matrix(weight, bits)
        assert torch.equal(codes, codes.round())
        assert codes.abs().max() <= most
        assert torch.equal(codes[3], torch.zeros(40))
        plain = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / most
        widest = (weight / plain).round() * plain
        error = (codes * scales[:, None] - weight).square().sum(dim=1)
        summed = gamma(40) * weight.square().sum(dim=1)
        assert (error <= (widest - weight).square().sum(dim=1) + summed).all()
        assert (error <= 40 * (plain[:, 0] / 2).square() + summed).all()


def test_calibration_finds_the_temperature_and_bias_that_were_put_in():
    rng = np.random.default_rng(2)
    true = rng.normal(size=200_000) * 2 - 1
    labels = (rng.random(len(true)) < 1 / (1 + np.exp(-true))).astype(np.float32)
    scale, shift = fitted_calibration(labels, (true * 5 + 3).astype(np.float32))
    p = 1 / (1 + np.exp(-true))
    weights, inputs = p * (1 - p), np.stack([true * 5 + 3, np.ones_like(true)])
    errors = 5 * np.sqrt(np.diag(np.linalg.inv(inputs * weights @ inputs.T)))  # five standard errors
    assert scale == pytest.approx(0.2, abs=errors[0])
    assert shift == pytest.approx(-0.6, abs=errors[1])


def calibrated(labels, logits):
    """Scale and shift, or (1, 0) where a calibration would not lower the loss."""
    try:
        return fitted_calibration(labels, logits)
    except CompressionError as refused:
        if "would not become lower" not in str(refused):
            raise
        return 1.0, 0.0


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3, 1e30])
@pytest.mark.parametrize("center", [-20, 0.3])
@pytest.mark.parametrize("rows", [200, 2_000])
def test_a_calibration_is_bounded_and_never_raises_the_loss(rows, center, spread):
    rng = np.random.default_rng(3)
    z = rng.normal(size=rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-np.sign(z)))).astype(np.float32)
    logits = (z * spread + center).astype(np.float32)
    scale, shift = calibrated(labels, logits)
    assert 0.1 <= scale <= 10
    assert quality.logloss(labels, scale * logits + shift) <= quality.logloss(labels, logits)
    if spread == 1 and center == -20:
        assert quality.logloss(labels, scale * logits + shift) < 0.7


@pytest.mark.parametrize("width", [1e-3, 1.0, 100.0])
def test_separable_rows_have_a_bounded_calibration(width):
    """Without a bound the best scale is infinite, and one row on the wrong side costs as much."""
    x = np.concatenate([np.linspace(-2, -1, 60), np.linspace(1, 2, 60)]) * width
    labels = (x > 0).astype(np.float32)
    scale, shift = calibrated(labels, x)
    assert 0.1 <= scale <= 10
    # Platt's targets are worth at most log((60 + 1) / 1): no edge of a class gets surer by calibration than that.
    assert scale == 1 or scale * width + shift < np.log(61)


@pytest.mark.parametrize(
    ("labels", "logits", "reason"),
    [
        (np.r_[np.ones(49), np.zeros(500)], np.arange(549) / 100, "49 of 549 validation rows are clicks"),
        (np.r_[np.ones(500), np.zeros(49)], np.arange(549) / 100, "500 of 549 validation rows are clicks"),
        (np.zeros(300), np.arange(300) / 100, "0 of 300"),
        (np.ones(300), np.arange(300) / 100, "300 of 300"),
        (np.tile([0, 1], 100), np.full(200, 0.25), "all the same, or not finite"),
        (np.tile([0, 1], 100), np.full(200, np.inf), "all the same, or not finite"),
        (np.r_[np.ones(100), np.zeros(100)], np.arange(200) / 100, "do not follow the clicks"),
    ],
)
def test_rows_that_do_not_say_how_to_calibrate_are_refused(labels, logits, reason):
    with pytest.raises(CompressionError, match=reason):
        fitted_calibration(labels.astype(np.float32), logits.astype(np.float32))


def test_a_calibration_that_rows_do_not_support_is_left_out_and_said(run, dataset, tmp_path, monkeypatch):
    """At the end of a chain that trained for minutes: the run is written, without it."""
    monkeypatch.setattr("slimctr.compression.recalibrate.FEWEST", 10**9)
    notes = []
    progress = Silent()
    progress.note = notes.append
    coded = compress(run, "network_ptq+recalibrate", {}, None, tmp_path / "coded", progress=progress)
    assert coded.spec.calibration is None
    (note,) = notes
    assert note.startswith("recalibrate is left out: ")
    assert coded.lineage.methods[-1].statistics["left_out"] in note
    assert load_run(coded.path).metrics == coded.metrics


def test_a_rounded_network_computes_with_what_export_stores(run, tmp_path):
    coded = compress(run, "network_ptq", {"bits": 8}, None, tmp_path / "coded")
    twin = folded(coded.model)
    names = coded_maps(twin.backbone)
    assert names
    assert set(twin.matrix_codes) == set(names)
    stored = torch.randn(16, coded.spec.stored_width)
    assert torch.equal(coded.model.network(stored), twin.network(stored))
    assert not torch.equal(coded.model.network(stored), run.model.network(stored))


def test_what_may_follow_a_rounded_or_calibrated_network(run, dataset, tmp_path):
    coded = compress(run, "network_ptq+recalibrate", {}, None, tmp_path / "coded")
    assert coded.spec.network_bits == 8
    assert coded.spec.calibration is not None
    with pytest.raises(CompressionError, match="come last"):
        compress(coded, "ptq", {}, None, tmp_path / "after")
    with pytest.raises(CompressionError, match="already"):
        compress(coded, "recalibrate", {}, None, tmp_path / "again")
    plain = compress(run, "network_ptq", {}, None, tmp_path / "plain")
    scores, (scale, shift) = evaluate(plain.model, dataset, "valid"), coded.spec.calibration
    ties = auc_error(scores.labels, scores.logits, gamma(3) * (np.abs(scores.logits) + abs(shift / scale)))
    assert coded.metrics["valid"]["auc"] == pytest.approx(plain.metrics["valid"]["auc"], abs=ties)


def test_fine_tune_keeps_the_structure(run, tmp_path):
    longer = compress(run, "fine_tune", {"epochs": 1}, None, tmp_path / "longer")
    assert longer.spec == run.spec
    assert longer.lineage.methods[-1].statistics["kept_epoch"] in (0, 1)
    assert longer.metrics["valid"]["auc"] >= run.metrics["valid"]["auc"]
