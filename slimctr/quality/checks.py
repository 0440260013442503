"""What every metric demands of its labels and logits: one place for the checks and their messages."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def checked(labels: ArrayLike, logits: ArrayLike) -> tuple[BoolArray, FloatArray]:
    """Return labels as bool (B,) and logits as float64 (B,).

    Raises ValueError when the two differ in shape, are empty or not one-dimensional, when a label is neither
    0 nor 1, or when a logit is NaN or infinite.
    """
    clicked = np.asarray(labels)
    scores = np.asarray(logits, dtype=np.float64)
    if clicked.ndim != 1 or scores.ndim != 1:
        raise ValueError(f"labels and logits must be one-dimensional, got {clicked.shape} and {scores.shape}")
    if clicked.shape != scores.shape:
        raise ValueError(f"{clicked.size} labels do not match {scores.size} logits")
    if clicked.size == 0:
        raise ValueError("no rows: a metric needs at least one label and logit")
    wrong = ~((clicked == 0) | (clicked == 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"label of row {row} is {clicked[row]}; a label is 0 or 1")
    unusable = ~np.isfinite(scores)
    if unusable.any():
        row = int(unusable.argmax())
        count = int(unusable.sum())
        raise ValueError(
            f"logit of row {row} is {scores[row]}; {count} of {scores.size} logits are not finite"
        )
    return clicked.astype(np.bool_), scores


def require_both_classes(clicked: BoolArray, metric: str) -> None:
    """Raise ValueError unless there is at least one click and one non-click."""
    clicks = int(clicked.sum())
    if clicks == 0 or clicks == clicked.size:
        only = "clicks" if clicks else "non-clicks"
        raise ValueError(f"{metric} is undefined: all {clicked.size} rows are {only}, it needs both classes")
