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
    """Fit logit' = scale * logit + shift to the clicks of the validation rows, by least log-loss.

    The order of scores, and so the AUC, does not change. Both numbers become a part of the network; the figures of
    the validation rows before and after are kept.
    """
    valid = data.split("valid")
    labels, logits = valid.labels.numpy(), score(model, valid)
    scale, shift = fitted_calibration(labels, logits)
    calibrated = (logits * np.float32(scale) + np.float32(shift)).astype(np.float32)
    names = ("logloss", "calibration", "ece")
    before, after = quality.summary(labels, logits), quality.summary(labels, calibrated)
    return Outcome(
        model_of(with_parts(model.spec, calibration=(scale, shift)), dict(model.state_dict())),
        {
            **{"scale": scale, "shift": shift, "split": "valid", "rows": len(labels)},
            "valid_before": {name: before[name] for name in names},
            "valid_after": {name: after[name] for name in names},
        },
    )


def fitted_calibration(labels: NDArray[np.floating], logits: NDArray[np.floating]) -> tuple[float, float]:
    """Return scale and shift of least log-loss for logits (n,), by Newton steps that never raise it, in float64.

    Raises CompressionError when the best scale is not positive: the scores say nothing, or the opposite.
    """
    x = np.stack([logits.astype(np.float64), np.ones(len(logits))], axis=1)
    found = np.array([1.0, 0.0])
    loss = _loss(labels, x @ found)
    for _ in range(STEPS):
        p = np.exp(-np.logaddexp(0.0, -(x @ found)))
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + 1e-9 * len(x) * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (p - labels))
        while (tried := _loss(labels, x @ (found - step))) > loss and np.abs(step).max() > TOLERANCE:
            step /= 2
        found, loss = found - step, min(tried, loss)
        if np.abs(step).max() <= TOLERANCE:
            break
    if not found[0] > 0:
        raise CompressionError(
            f"the best scale of the logits is {found[0]:.3g}: the scores do not follow the clicks"
        )
    return float(found[0]), float(found[1])


def _loss(labels: NDArray[np.floating], logits: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0.0, logits) - labels * logits).mean())
