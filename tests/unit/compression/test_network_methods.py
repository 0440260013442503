"""`network_ptq`, `recalibrate` and `fine_tune`: what they leave in torch, and what is published of it."""

import numpy as np
import pytest
import torch

from slimctr.compression import compress
from slimctr.compression.recalibrate import fitted_calibration
from slimctr.errors import CompressionError
from slimctr.networks.folding import coded_maps, folded, rounded_matrix


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
        assert (error <= (widest - weight).square().sum(dim=1) + 1e-9).all()
        assert error.max() < (0.01 if bits == 8 else 2)


def test_calibration_finds_the_temperature_and_bias_that_were_put_in():
    rng = np.random.default_rng(2)
    true = rng.normal(size=200_000) * 2 - 1
    labels = (rng.random(len(true)) < 1 / (1 + np.exp(-true))).astype(np.float32)
    scale, shift = fitted_calibration(labels, (true * 5 + 3).astype(np.float32))
    assert scale == pytest.approx(0.2, rel=0.02)
    assert shift == pytest.approx(-0.6, abs=0.03)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_calibration_never_raises_the_loss(spread):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=500) * spread
    labels = (rng.random(500) < 1 / (1 + np.exp(-np.sign(logits)))).astype(np.float32)
    scale, shift = fitted_calibration(labels, logits)
    after = np.logaddexp(0, scale * logits + shift) - labels * (scale * logits + shift)
    before = np.logaddexp(0, logits) - labels * logits
    assert after.mean() <= before.mean() + 1e-12


def test_scores_against_the_clicks_are_refused():
    labels = np.array([1, 0, 1, 0, 1, 1, 0, 0], np.float32)
    with pytest.raises(CompressionError, match="do not follow"):
        fitted_calibration(labels, np.array([-1, 1, -2, 2, 0.5, -1, 1, -0.5]))


def test_a_rounded_network_computes_with_what_export_stores(run, tmp_path):
    coded = compress(run, "network_ptq", {"bits": 8}, None, tmp_path / "coded")
    twin = folded(coded.model)
    names = coded_maps(twin.backbone)
    assert names
    assert set(twin.matrix_codes) == set(names)
    stored = torch.randn(16, coded.spec.stored_width)
    assert torch.equal(coded.model.network(stored), twin.network(stored))
    assert not torch.equal(coded.model.network(stored), run.model.network(stored))


def test_what_may_follow_a_rounded_or_calibrated_network(run, tmp_path):
    coded = compress(run, "network_ptq+recalibrate", {}, None, tmp_path / "coded")
    assert coded.spec.network_bits == 8
    assert coded.spec.calibration is not None
    with pytest.raises(CompressionError, match="come last"):
        compress(coded, "ptq", {}, None, tmp_path / "after")
    with pytest.raises(CompressionError, match="already"):
        compress(coded, "recalibrate", {}, None, tmp_path / "again")
    assert coded.metrics["valid"]["auc"] == pytest.approx(
        compress(run, "network_ptq", {}, None, tmp_path / "plain").metrics["valid"]["auc"], abs=1e-6
    )


def test_fine_tune_keeps_the_structure(run, tmp_path):
    longer = compress(run, "fine_tune", {"epochs": 1}, None, tmp_path / "longer")
    assert longer.spec == run.spec
    assert longer.lineage.methods[-1].statistics["kept_epoch"] in (0, 1)
    assert longer.metrics["valid"]["auc"] >= run.metrics["valid"]["auc"]
