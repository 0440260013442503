"""Experiment files: what is accepted, and how a wrong one is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from service.experiments.spec import load_experiment
from slimctr.errors import ConfigError

GOOD: dict[str, Any] = {
    "key": "ctr-int4",
    "model": "ctr",
    "variants": [
        {"name": "original", "version": 1, "weight": 0.5},
        {"name": "int4", "version": "canary", "weight": 0.5},
    ],
    "default": "original",
}


def written(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def test_a_short_file_gets_its_defaults(tmp_path: Path) -> None:
    spec = load_experiment(written(tmp_path, GOOD))
    assert (spec.seed, spec.coverage, spec.shadow) == ("ctr-int4", 1.0, None)
    assert (spec.window_s, spec.maturity_s) == (1800.0, 2700.0)
    assert [variant.version for variant in spec.variants] == [1, "canary"]


def test_maturity_follows_a_longer_window(tmp_path: Path) -> None:
    assert load_experiment(written(tmp_path, {**GOOD, "window_s": 7200})).maturity_s == 8100.0


def test_a_version_may_be_a_string_of_digits(tmp_path: Path) -> None:
    variants = [{**GOOD["variants"][0], "version": "7"}, GOOD["variants"][1]]
    assert load_experiment(written(tmp_path, {**GOOD, "variants": variants})).variants[0].version == 7


def test_it_is_frozen(tmp_path: Path) -> None:
    spec = load_experiment(written(tmp_path, GOOD))
    with pytest.raises(ValidationError, match="frozen"):
        spec.coverage = 0.1


def variants(**changes: Any) -> dict[str, Any]:
    return {"variants": [GOOD["variants"][0], {**GOOD["variants"][1], **changes}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "colour: Extra inputs"),
        ({"default": "int8"}, "default: 'int8' is no variant; variants are original, int4"),
        ({"coverage": 1.5}, "coverage: Input should be less than or equal to 1"),
        ({"coverage": float("nan")}, "coverage"),
        ({"window_s": 60, "maturity_s": 30}, "maturity_s: 30 is below window_s"),
        ({"window_s": "long"}, "window_s: "),
        ({"shadow": {"variant": "int8", "percent": 10}}, "shadow.variant: 'int8' is no variant"),
        ({"shadow": {"variant": "original", "percent": 10}}, "shadow.variant: 'original' is the default"),
        ({"shadow": {"variant": "int4", "percent": 0}}, "shadow.percent"),
        ({"seed": "ü"}, "seed: String should match"),
        ({"key": "a b"}, "key: 'a b' cannot name an experiment"),
        ({"variants": []}, "variants: "),
        (variants(weight=0.6), "the weights add up to 1.1"),
        (variants(weight=-0.5), "variants.1.weight"),
        (variants(name="original"), "'original' is there 2 times"),
        (variants(name="pinned"), "variants.1.name: 'pinned' names requests"),
        (variants(version=0), "variants.1.version: 0 is neither a version"),
        (variants(version=True), "variants.1.version: True is neither"),
        (variants(version=1.5), "variants.1.version: 1.5 is neither"),
        (variants(version="no label"), "variants.1.version: 'no label' is neither"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(written(tmp_path, {**GOOD, **change}))
    assert message in str(caught.value)
    assert "experiment.yaml" in str(caught.value)


@pytest.mark.parametrize("missing", ["key", "model", "variants", "default"])
def test_a_missing_key_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing}: "):
        load_experiment(written(tmp_path, {name: value for name, value in GOOD.items() if name != missing}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "one mapping"),
        ("", "one mapping"),
        ("key: [", "not valid YAML"),
        ("key: a\nkey: b", "'key' is there twice"),
        ("? [a]\n: b", "not valid YAML"),
        ("key: \xff", "key"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_experiment(tmp_path / "none.yaml")
