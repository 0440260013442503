"""What is wrong with the figures of a model: sentences for whoever is about to use it."""

import math
from collections.abc import Iterator, Mapping

FEWEST_CLICKS = 200
"""Below this an AUC is known to 0.02 at best, a calibration to 7 %."""
LEAST_CALIBRATION, MOST_CALIBRATION = 0.8, 1.25

Figures = Mapping[str, float]


def warnings(figures: Mapping[str, Figures]) -> list[str]:
    """Return a sentence for everything that speaks against a model with these figures by split, none for a sound one.

    Read are `clicks`, `ne` and `calibration` of every split, and where a logistic regression was measured beside the
    model `auc`, `lr_auc`, `lr_auc_gain` and `lr_auc_gain_error`. What a split lacks is not judged.
    """
    return [
        f"{split}: {sentence}"
        for split, found in figures.items()
        for sentence in (*_unsound(found), *_beaten(found), *_undecided(found))
    ]


def unsound(figures: Mapping[str, Figures]) -> list[str]:
    """Return those of the sentences that say that probabilities are wrong: by NE or by calibration."""
    return [f"{split}: {sentence}" for split, found in figures.items() for sentence in _unsound(found)]


def figures_by_split(evaluation: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return figures by split of what a manifest keeps as `valid_auc`, `test_auc` and so on."""
    figures: dict[str, dict[str, float]] = {}
    for name, value in evaluation.items():
        split, _, metric = name.partition("_")
        figures.setdefault(split, {})[metric] = value
    return figures


def _unsound(found: Figures) -> Iterator[str]:
    if "ne" in found and found["ne"] >= 1:
        yield (
            f"NE is {found['ne']:.3f}: the click rate for every row has NE 1, so these scores are worse than no model"
        )
    if "calibration" in found and not LEAST_CALIBRATION <= found["calibration"] <= MOST_CALIBRATION:
        yield (
            f"calibration is {found['calibration']:.2f}: so many clicks are predicted for each that there is; "
            f"{LEAST_CALIBRATION:g} to {MOST_CALIBRATION:g} is sound"
        )


def _beaten(found: Figures) -> Iterator[str]:
    if "lr_auc_gain" in found and found["lr_auc_gain"] + found["lr_auc_gain_error"] < 0:
        gain = told(found["lr_auc_gain"], found["lr_auc_gain_error"])
        yield (
            f"a logistic regression orders the rows better: its AUC is {found['lr_auc']:.3f}, that of the model "
            f"{found['auc']:.3f}, a difference of {gain}"
        )


def _undecided(found: Figures) -> Iterator[str]:
    if "clicks" in found and found["clicks"] < FEWEST_CLICKS:
        yield (
            f"{found['clicks']:,.0f} clicks decide little: below {FEWEST_CLICKS} an AUC is known to about 0.02 at "
            "best, and smaller differences are noise"
        )


def told(value: float, error: float) -> str:
    """Return "value ± error" with the digits that the error allows: two of the error, as many of the value."""
    if not (math.isfinite(value) and math.isfinite(error)) or error <= 0:
        return f"{value:.5f} ± {error:.5f}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 5)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
