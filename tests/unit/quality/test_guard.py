"""The guard speaks for each thing that is wrong with figures, and is silent on a sound model."""

import pytest

from slimctr import quality

SOUND = {"rows": 28_860, "clicks": 9_500, "auc": 0.984, "ne": 0.22, "calibration": 1.02}
BESIDE = {"lr_auc": 0.95, "lr_auc_gain": 0.034, "lr_auc_gain_error": 0.001}


def test_a_sound_model_is_left_in_peace() -> None:
    assert quality.warnings({"valid": SOUND, "test": {**SOUND, **BESIDE}}) == []
    assert quality.warnings({"valid": {}, "test": {}}) == []


@pytest.mark.parametrize(
    ("figures", "sentence", "is_unsound"),
    [
        ({"ne": 1.2}, "NE is 1.200", True),
        ({"ne": 1.0}, "NE is 1.000", True),
        ({"calibration": 2.0}, "calibration is 2.00", True),
        ({"calibration": 0.79}, "calibration is 0.79", True),
        ({"clicks": 30}, "30 clicks decide little", False),
        ({"clicks": 199}, "199 clicks decide little", False),
        (
            {**BESIDE, "auc": 0.9, "lr_auc_gain": -0.05, "lr_auc_gain_error": 0.01},
            "its AUC is 0.950, that of the model 0.900, a difference of -0.050 ± 0.010",
            False,
        ),
    ],
)
def test_each_fault_has_its_sentence(figures: dict[str, float], sentence: str, is_unsound: bool) -> None:
    told = quality.warnings({"valid": SOUND, "test": {**SOUND, **figures}})
    assert len(told) == 1
    assert told[0].startswith("test: ")
    assert sentence in told[0]
    assert bool(quality.unsound({"test": {**SOUND, **figures}})) == is_unsound


@pytest.mark.parametrize(
    "figures",
    [
        {"calibration": 0.8},
        {"calibration": 1.25},
        {"clicks": 200},
        {**BESIDE, "lr_auc_gain": -0.009, "lr_auc_gain_error": 0.01},
    ],
)
def test_the_limits_themselves_and_what_may_be_noise_are_no_fault(figures: dict[str, float]) -> None:
    assert quality.warnings({"test": {**SOUND, **figures}}) == []


def test_figures_of_a_manifest_are_read_by_split() -> None:
    kept = {"valid_auc": 0.8, "test_ne": 1.3, "test_lr_auc": 0.7}
    assert quality.figures_by_split(kept) == {"valid": {"auc": 0.8}, "test": {"ne": 1.3, "lr_auc": 0.7}}


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.71634, 0.0293, "0.716 ± 0.029"),
        (0.98412, 0.00071, "0.98412 ± 0.00071"),
        (0.5, 0.31, "0.50 ± 0.31"),
        (-0.018, 0.0171, "-0.018 ± 0.017"),
        (0.9, 0.0, "0.90000 ± 0.00000"),
    ],
)
def test_digits_end_where_the_error_begins(value: float, error: float, text: str) -> None:
    assert quality.told(value, error) == text
