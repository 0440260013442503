"""`recalibrate`: a temperature and a bias that set the logits of a compressed model right again."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slimctr import quality
from slimctr.compression.data import CompressionData
from slimctr.compression.factors import model_of, with_parts
from slimctr.compression.method import Outcome, Settings, method
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel, ModelSpec
from slimctr.training import score

STEPS = 100
TOLERANCE = 1e-9
FEWEST = 50
"""Of either class: a shift that is fitted to 50 clicks is known to about 1 / sqrt(50) = 0.14 at best."""
SMALLEST_SCALE, LARGEST_SCALE = 0.1, 10.0


class RecalibrateSettings(Settings):
    """Nothing to choose."""

    epochs: Annotated[int, Field(ge=0, le=0)] = 0


def recalibrate_objection(spec: ModelSpec, config: RecalibrateSettings) -> str | None:
    """Logits are set right once."""
    return "its logits are calibrated already" if spec.calibration is not None else None


@method(
    "recalibrate", RecalibrateSettings, recalibrate_objection, takes_mapped=True, takes_low_precision=True
)
def recalibrate(model: CtrModel, data: CompressionData, config: RecalibrateSettings) -> Outcome:
    """Fit logit' = scale * logit + shift to the clicks of the validation rows.

    The order of scores, and so the AUC, does not change. Both numbers become a part of the network; the figures of
    the validation rows before and after are kept. Where the rows do not say what the two numbers are, the model
    stays as it is, and the statistics say why under `left_out`.
    """
    valid = data.split("valid")
    labels, logits = valid.labels.numpy(), score(model, valid)
    found = {"split": "valid", "rows": len(labels)}
    try:
        scale, shift = fitted_calibration(labels, logits)
    except CompressionError as reason:
        return Outcome(model_of(model.spec, dict(model.state_dict())), {**found, "left_out": str(reason)})
    calibrated = (logits * np.float32(scale) + np.float32(shift)).astype(np.float32)
    names = ("logloss", "calibration", "ece")
    before, after = quality.summary(labels, logits), quality.summary(labels, calibrated)
    return Outcome(
        model_of(with_parts(model.spec, calibration=(scale, shift)), dict(model.state_dict())),
        {
            **{"scale": scale, "shift": shift, **found},
            "valid_before": {name: before[name] for name in names},
            "valid_after": {name: after[name] for name in names},
        },
    )


def fitted_calibration(labels: NDArray[np.floating], logits: NDArray[np.floating]) -> tuple[float, float]:
    """Return scale, from 0.1 to 10, and shift of least log-loss for logits (n,), in float64.

    Instead of 1 and 0 the targets are those of Platt (1999), (k + 1) / (k + 2) for k clicks and 1 / (m + 2) for m
    other rows, so that rows which a threshold separates have a finite answer. Raises CompressionError when there
    are fewer than 50 clicks or other rows, when the logits are equal or not finite, when the best scale is not
    positive, and when the log-loss of the rows would not become lower.
    """
    clicks = int(labels.sum())
    others = len(labels) - clicks
    if min(clicks, others) < FEWEST:
        raise CompressionError(
            f"{clicks} of {len(labels)} validation rows are clicks, and fewer than {FEWEST} clicks or {FEWEST} "
            "other rows do not tell how to correct them"
        )
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all() or logits.min() == logits.max():
        raise CompressionError("the logits of the validation rows are all the same, or not finite")
    targets = np.where(labels > 0, (clicks + 1) / (clicks + 2), 1 / (others + 2))
    # Fitted on logits of mean 0 and variance 1, where no direction is much flatter than another.
    center, spread, rate = float(logits.mean()), float(logits.std()), np.log(clicks / others)
    x = np.stack([(logits - center) / spread, np.ones(len(logits))], axis=1)
    slope, level = _newton(targets, x, np.zeros(len(logits)), np.array([1.0, rate]))
    if not slope > 0:
        raise CompressionError(
            f"the best scale of the logits is {slope / spread:.3g}: the scores do not follow the clicks"
        )
    scale = min(max(slope / spread, SMALLEST_SCALE), LARGEST_SCALE)
    (level,) = _newton(targets, x[:, 1:], scale * (logits - center), np.array([level]))
    shift = level - scale * center
    if not quality.logloss(labels, scale * logits + shift) < quality.logloss(labels, logits):
        raise CompressionError("the log-loss of the validation rows would not become lower")
    return float(scale), float(shift)


def _newton(
    targets: NDArray[np.float64],
    x: NDArray[np.float64],
    offset: NDArray[np.float64],
    found: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the weights (k,) of x (n, k) whose logits, on top of an offset, have the least log-loss.

    Newton steps from `found` that never raise the loss.
    """
    loss = _loss(targets, offset + x @ found)
    for _ in range(STEPS):
        p = np.exp(-np.logaddexp(0.0, -(offset + x @ found)))
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + 1e-9 * len(x) * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, x.T @ (p - targets))
        while (tried := _loss(targets, offset + x @ (found - step))) > loss and np.abs(
            step
        ).max() > TOLERANCE:
            step /= 2
        found, loss = found - step, min(tried, loss)
        if np.abs(step).max() <= TOLERANCE:
            break
    return found


def _loss(targets: NDArray[np.float64], logits: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, logits) - targets * logits).mean())
