"""Budget, front, search space and buckets of the frontier: pure parts."""

import numpy as np
import optuna
import pytest

from slimctr.compression import chain
from slimctr.errors import ConfigError
from slimctr.frontier.budget import Budget, pareto_front
from slimctr.frontier.report import label, page
from slimctr.frontier.space import STARTS, suggest_chain
from slimctr.frontier.variants import bucket_losses
from slimctr.networks import float_spec


def record(key, artifact, auc, logloss=0.4, calibration=1.0):
    measured = {"auc": auc, "logloss": logloss, "calibration": calibration}
    return {
        "key": key,
        "method": "" if key == "original" else "ptq",
        "settings": {} if key == "original" else {"ptq": {"bits": 4}},
        "valid": measured,
        "test": measured,
        "bytes": {"artifact": artifact, "payload": artifact // 2, "resident": artifact},
        "buckets": {
            name: {"rows": 3, "logloss": logloss, "most_seen": 1} for name in ("tail", "torso", "head")
        },
        "speed": {"microseconds": {"32": 10.0}, "speed_ratio": {"1": 1.0, "32": 1.1, "512": 1.2}},
    }


ORIGINAL = record("original", 1000, 0.80)


def test_the_smallest_variant_within_all_limits_is_recommended():
    variants = [record("a", 100, 0.7985), record("b", 200, 0.7995, 0.45), record("c", 300, 0.80)]
    assert Budget.parse("auc_drop<=0.001").recommend(variants, ORIGINAL)["key"] == "b"
    assert Budget.parse("auc_drop<=0.002").recommend(variants, ORIGINAL)["key"] == "a"
    both = Budget.parse("auc_drop<=0.001, logloss_rise<=0.01")
    assert both.recommend(variants, ORIGINAL)["key"] == "c"
    assert str(both) == "auc_drop<=0.001,logloss_rise<=0.01"
    assert Budget.parse("auc_drop<=0.001,artifact_ratio>=4").recommend(variants, ORIGINAL)["key"] == "b"
    assert Budget.parse("auc_drop<=-0.1").recommend(variants, ORIGINAL) is None
    assert Budget.parse("calibration_error<=0.01").holds(record("d", 1, 0.5, 0.4, 1.02), ORIGINAL) is False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("auc<=0.1", "no term"),
        ("", "no term"),
        ("auc_drop>=0.1", "written auc_drop<="),
        ("auc_drop<=1e", "no number"),
        ("auc_drop<=1e999", "no number"),
        ("auc_drop<=0.001;x", "no term"),
    ],
)
def test_budgets_that_cannot_be_read_name_the_term(text, reason):
    with pytest.raises(ConfigError, match=reason):
        Budget.parse(text)


def test_the_front_has_no_beaten_variant():
    variants = [record("a", 100, 0.7), record("b", 100, 0.71), record("c", 150, 0.70), record("d", 200, 0.8)]
    assert [v["key"] for v in pareto_front(variants)] == ["b", "d"]


def test_every_suggestion_is_a_chain_that_exists():
    spec = float_spec(
        "deepfm", dim=6, field_names=["a", "b"], rows=[5, 9], pooling=[None, None], params={"hidden": [8, 8]}
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    seen = set()
    for start in STARTS:
        study.enqueue_trial(dict(start))
    for _ in range(200):
        method, settings = suggest_chain(study.ask(), spec)
        for step in chain(method, settings if "+" in method else settings[method]):
            seen.add(step.method.name)
    assert {"ptq", "lsq_plus", "mpe", "frequency_rule", "feature_pca", "network_ptq", "recalibrate"} <= seen


def test_a_third_of_the_rows_is_the_tail():
    rarest = np.array([9, 1, 5, 2, 8, 4])
    logits = np.array([0, 9, 0, 9, 0, 0], np.float32)
    buckets = bucket_losses(np.zeros(6, np.float32), logits, rarest)
    assert [buckets[name]["rows"] for name in ("tail", "torso", "head")] == [2, 2, 2]
    assert [buckets[name]["most_seen"] for name in ("tail", "torso", "head")] == [2, 5, 9]
    assert buckets["tail"]["logloss"] == pytest.approx(np.logaddexp(0, 9))
    assert buckets["head"]["logloss"] == pytest.approx(np.log(2))


def test_the_page_stands_alone_and_escapes_what_it_shows():
    found = {
        **{
            "run": "<b>run</b>",
            "budget": "auc_drop<=0.001",
            "trials": 2,
            "seed": 1,
            "machine": "m",
            "date": "d",
        },
        **{"original": ORIGINAL, "variants": [record("a", 100, 0.7995)], "front": ["a"], "recommended": "a"},
    }
    text = page(found)
    assert "<b>run</b>" not in text
    assert "auc_drop&lt;=0.001" in text
    assert "10.0 times smaller" in text
    assert 'src="http' not in text
    assert label(found["variants"][0]) == "ptq ptq.bits=4"
    assert "No variant is within" in page({**found, "recommended": None})
