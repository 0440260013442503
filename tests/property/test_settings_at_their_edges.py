"""Every setting of training, networks, compression and generated logs, at the edges of what a person may write.

The outcome is a run or one line that names the setting and the value: never a traceback, never a warning.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from slimctr.clicklogs import Dataset
from slimctr.clicklogs.prepare import PrepareSettings, prepare
from slimctr.clicklogs.synthetic import SyntheticLog, SyntheticSpec
from slimctr.compression import METHODS
from slimctr.compression.data import CompressionData
from slimctr.compression.verb import fine_tune
from slimctr.errors import SlimctrError
from slimctr.networks import NETWORKS
from slimctr.training import TrainConfig, parse_assignments, score, train

pytestmark = pytest.mark.slow  # trains with every setting

EDGES = (
    *(0, 1, -1, 2, 64, 2**31 - 1, 2**31, 2**63, 2**64, 10**23, -(10**23), 10**400),
    *(0.5, 0.999, 0.999999, 5e-324, -1e-9, 1e6, 1e23, 1e30, 1e300, math.nan, math.inf, -math.inf),
    *(None, True, "", "x", "1e23", "nan", "\n", b"\xff", [], [0], [1], [1] * 1_000, ["x"], {}, {"x": 1}),
)
QUICK = 2
"""Epochs and steps that a test waits for; more of them are only checked."""


def refusal(action):
    """Return what an action gives, and the text of its expected error: one of the two is None."""
    try:
        return action(), None
    except SlimctrError as refused:
        return None, str(refused)


def accepted(resolve, name):
    """The settings that come of the edges of `name`; each other edge is refused in one line that names both.

    Of the numbers the least, the next and the greatest are enough to run.
    """
    taken, numbers = [], {}
    for value in EDGES:
        settings, refused = refusal(lambda value=value: resolve(value))
        if refused is None and isinstance(value, int | float) and not isinstance(value, bool):
            numbers[value] = settings
            continue
        if refused is None:
            taken.append(settings)
            continue
        assert "\n" not in refused, (name, value)
        assert name in refused, (name, value, refused)
        named = {repr(value), repr(value)[1:-1] if isinstance(value, list | dict) else repr(value)}
        assert value == {"x": 1} or any(text[:20] in refused for text in named), (name, value, refused)
    ordered = sorted(numbers)
    return taken + [numbers[value] for value in dict.fromkeys([*ordered[:2], *ordered[-1:]])]


def require_figure_or_line(action):
    """A finite figure, or one line."""
    figure, refused = refusal(action)
    assert math.isfinite(figure) if refused is None else refused.strip() and "\n" not in refused


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    spec = SyntheticSpec(rows=500, cardinalities=(4, 12, 60), logit_std=2.5, seed=7)
    return prepare(
        PrepareSettings(log_format="synthetic", synthetic=spec), tmp_path_factory.mktemp("edges") / "data"
    ).path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Validation logloss of a training by a configuration."""
    folder, numbers = tmp_path_factory.mktemp("runs"), itertools.count()

    def logloss(config):
        return train(config, data, folder / str(next(numbers))).metrics["valid"]["logloss"]

    return logloss


BASE = {"network": "deepfm", "dim": 4, "params": {"hidden": [6, 4]}, "epochs": 1, "batch_rows": 128}


@pytest.mark.parametrize("name", TrainConfig.model_fields)
def test_settings_of_training(name, trained):
    for config in accepted(lambda value: TrainConfig.resolve(BASE, {name: value}), name):
        if config.epochs <= QUICK:
            require_figure_or_line(lambda config=config: trained(config))


NETWORK_SETTINGS = [(network, name) for network in NETWORKS for name in NETWORKS[network].Params.model_fields]


@pytest.mark.parametrize(("network", "name"), NETWORK_SETTINGS)
def test_settings_of_networks(network, name, trained):
    base = {**BASE, "network": network}
    taken = accepted(lambda value: TrainConfig.resolve(base, {"params": {name: value}}), name)
    is_shared = name in ("hidden", "batch_norm", "dropout")
    for config in taken if network == "dnn" or not is_shared else ():
        require_figure_or_line(lambda config=config: trained(config))


QUICKLY = {
    "ham": {"search_steps": 2, "search_batch_rows": 100},
    "mpe": {"search_epochs": 1, "groups": 4},
    "frequency_rule": {"kept_share": 0.5},
}
METHOD_SETTINGS = [(method, name) for method in METHODS for name in METHODS[method].config.model_fields]
COUNTED = ("epochs", "search_epochs", "search_steps")
SHARED = ("learning_rate_factor", "train_codes", "kd_weight")
OWN_TRAINING = ("fine_tune", "lpt", "ham", "mpe", "hash_qr")
"""Methods that train in ways of their own; the others share that of fine_tune, so theirs is tried there."""


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train(TrainConfig.resolve(BASE), data, tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize(("method", "name"), METHOD_SETTINGS)
def test_settings_of_compression(method, name, run, data):
    entry = METHODS[method]
    trains = entry.config.model_fields["epochs"].default != 0
    base = QUICKLY.get(method, {}) | ({"epochs": 1} if trains else {})
    source = CompressionData(Dataset(data), run.config, teacher=run.model)
    for config in accepted(lambda value: entry.configure(base | {name: value}), name):
        value = getattr(config, name)
        if name in COUNTED and (value is None or value > QUICK):
            continue
        if name not in SHARED or method in OWN_TRAINING:
            require_figure_or_line(lambda config=config: largest_logit(entry, run, source, config))


def largest_logit(entry, run, source, config):
    """Of the validation rows; `compress` refuses a model whose scores are not finite."""
    with torch.random.fork_rng(devices=[]):
        model = entry.apply(run.model, source, config).model
    fine_tune(model, config, source)
    return float(np.nan_to_num(np.abs(score(model, source.split("valid"))), posinf=0.0).max())


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(SyntheticSpec)])
def test_settings_of_generated_logs(name):
    base = {"rows": 10, "cardinalities": (3, 5)}
    for spec in accepted(lambda value: SyntheticSpec(**{**base, name: value}), name):
        ids, labels, probability = next(SyntheticLog(spec).draw())
        assert set(np.unique(labels)) <= {0, 1}
        assert np.isfinite(probability).all()
        assert (ids >= 0).all()


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "=",
            "=1",
            "seed",
            "seed=[",
            "seed={",
            "seed=2001-99-99",
            "seed=" + "[" * 5_000,
            "seed=" + "9" * 5_000,
        ),
        *("seed=!!python/object:os.system", "seed=*x", "seed=&x", "seed=\x00", "seed=%", "seed: 1"),
        *("params=1 params.dropout=0.1", "params.=1", ".dropout=1", "params.a.b=1", "seed.x=1", "1=1"),
    ],
)
def test_assignments_of_any_text(text):
    _, refused = refusal(lambda: TrainConfig.resolve(BASE, parse_assignments(text.split(" "))))
    assert refused is not None
    assert "\n" not in refused
