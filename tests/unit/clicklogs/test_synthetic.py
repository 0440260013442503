import numpy as np
import pyarrow as pa
import pytest

from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.synthetic import (
    CRITEO_CARDINALITIES,
    MAX_IDS,
    SyntheticLog,
    SyntheticSpec,
    hex_tokens,
    scale_cardinalities,
)
from slimctr.clicklogs.zipf import draw_zipf
from slimctr.errors import ConfigError
from slimctr.quality import auc

SMALL = (5, 40, 300, 2_000)


def drawn(**settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = list(SyntheticLog(SyntheticSpec(**{"cardinalities": SMALL, "rows": 100_000} | settings)).draw())
    return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.1, 2.5])
def test_zipf_draws_follow_the_distribution(exponent):
    count, size = 200_000, 50
    ids = draw_zipf(np.random.default_rng(1), count, size, exponent)
    chances = np.arange(1, size + 1) ** -exponent
    chances /= chances.sum()
    observed = np.bincount(ids, minlength=size)
    assert len(observed) == size
    chi_squared = ((observed - count * chances) ** 2 / (count * chances)).sum()
    # 49 degrees of freedom: the 99.99 % point is 97.
    assert chi_squared < 97


def test_zipf_of_one_id_and_of_millions():
    generator = np.random.default_rng(2)
    assert draw_zipf(generator, 100, 1, 1.1).tolist() == [0] * 100
    ids = draw_zipf(generator, 100_000, 30_000_000, 1.1)
    assert ids.min() == 0
    assert 20_000_000 < ids.max() < 30_000_000


def test_draws_are_a_function_of_the_seed_and_not_of_the_length():
    ids, labels, probability = drawn(rows=70_000, seed=3)
    again = drawn(rows=66_000, seed=3)
    for first, second in zip((ids, labels, probability), again, strict=True):
        assert (first[:66_000] == second).all()
    assert not (drawn(rows=1_000, seed=4)[0] == ids[:1_000]).all()


def test_click_rate_spread_and_ground_truth():
    _, labels, probability = drawn(click_rate=0.17, logit_std=2.0, seed=5)
    # the draws follow from the seed on every CPU; offset and scale are fitted on others: about two standard errors
    assert labels.mean() == pytest.approx(0.17, abs=0.006)
    # the same
    assert probability.mean() == pytest.approx(0.17, abs=0.006)
    # the same
    assert np.log(probability / (1 - probability)).std() == pytest.approx(2.0, rel=0.05)
    # The truth separates clicks, and is calibrated in every tenth of its range.
    assert auc(labels, probability) > 0.75
    for part in np.array_split(np.argsort(probability), 10):
        error = 5 * np.sqrt((probability[part] * (1 - probability[part])).sum()) / len(part)
        # five standard errors of the clicks of these rows
        assert labels[part].mean() == pytest.approx(probability[part].mean(), abs=error)


def test_the_truth_is_the_factorization_machine_of_hashed_weights():
    log = SyntheticLog(SyntheticSpec(cardinalities=(7, 9, 11), latent_dims=5, seed=6))
    ids = np.array([[1, 2, 3], [6, 8, 10], [1, 8, 3]])
    linear = np.array([[log._hashes(field, ids[:, field], 0) for field in range(3)]])[0] / 2.0**64
    vectors = [log._vectors(field, ids[:, field]) for field in range(3)]
    expected = (np.sqrt(12) * (linear - 0.5)).sum(axis=0) / np.sqrt(3)
    for left, right in ((0, 1), (0, 2), (1, 2)):
        expected += (vectors[left] * vectors[right]).sum(axis=1) / np.sqrt(5 * 3)
    assert log._unscaled_logits(ids) == pytest.approx(expected)


def test_weights_have_mean_0_and_variance_1_and_differ_between_fields_and_seeds():
    ids = np.arange(50_000)
    log = SyntheticLog(SyntheticSpec(latent_dims=6))
    vectors = log._vectors(0, ids)
    assert vectors.shape == (50_000, 6)
    error = 5 / np.sqrt(len(ids))  # five standard errors of a mean or a correlation; of a variance the more
    assert np.abs(vectors.mean(axis=0)).max() < error
    assert np.abs(np.cov(vectors.T) - np.eye(6)).max() < 1.5 * error
    others = (log._vectors(1, ids), SyntheticLog(SyntheticSpec(latent_dims=6, seed=1))._vectors(0, ids))
    for other in others:
        assert abs(np.corrcoef(vectors[:, 0], other[:, 0])[0, 1]) < error


@pytest.mark.parametrize("total", [52, 1_000, 100_000, sum(CRITEO_CARDINALITIES), MAX_IDS])
def test_cardinalities_scale_to_any_total(total):
    scaled = scale_cardinalities(CRITEO_CARDINALITIES, total)
    assert sum(scaled) == total
    assert min(scaled) >= 2
    assert scaled[2] == max(scaled)


def test_the_published_total_keeps_the_published_cardinalities():
    scaled = scale_cardinalities(CRITEO_CARDINALITIES, sum(CRITEO_CARDINALITIES))
    # rounding to whole ids, and the ids that the floor of 2 adds to small fields
    assert np.allclose(scaled, CRITEO_CARDINALITIES, rtol=1e-4, atol=1)


def test_tokens_are_distinct_hex_and_differ_between_fields():
    tokens = hex_tokens(np.arange(100_000), 3)
    assert tokens.type == pa.string()
    tokens.validate(full=True)
    values = tokens.to_pylist()
    assert len(set(values)) == 100_000
    assert all(len(value) == 8 for value in values)
    assert int(values[0], 16) >= 0
    assert hex_tokens(np.arange(5), 4).to_pylist() != values[:5]


def test_every_value_covers_what_is_drawn():
    log = SyntheticLog(SyntheticSpec(cardinalities=SMALL, rows=5_000))
    schema = log.infer_schema()
    batches = list(log.batches(schema, ParseErrors()))
    for name, size in zip(schema.names, SMALL, strict=True):
        everything = [value for piece in log.every_value(name) for value in piece.to_pylist()]
        assert len(set(everything)) == len(everything) == size
        assert {value for batch in batches for value in batch.column(name).to_pylist()} <= set(everything)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "rows .* from 1 to .*, got 0"),
        ({"click_rate": 1.0}, "click_rate .*, got 1.0"),
        ({"popularity": 0.0}, "popularity .*, got 0.0"),
        ({"latent_dims": 0}, "latent_dims .* from 1 to 252, got 0"),
        ({"ids": 51}, "52 to 100,000,000, got 51"),
        ({"ids": MAX_IDS + 1}, "got 100000001"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_impossible_logs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticSpec(**settings)
