"""Signature and checked numpy wrapper of the kernel that makes probabilities of logits (`scores.c`)."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from slimctr.native.library import address, library

Floats = npt.NDArray[np.float32]


@cache
def _kernel() -> Any:
    kernel: Any = library().slimctr_probabilities
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    kernel.restype = ctypes.c_int64
    return kernel


def probabilities(logits: Floats) -> tuple[Floats, bool]:
    """Return the probabilities of `logits` (B,), float32, and whether every logit is finite; NaN stays NaN."""
    if logits.dtype != np.float32 or logits.ndim != 1:
        raise ValueError(f"logits are float32 (B,), not {logits.dtype} {logits.shape}")
    logits = np.ascontiguousarray(logits)
    out = np.empty(len(logits), np.float32)
    return out, bool(_kernel()(address(logits), len(logits), address(out)))


def sigmoid(logits: Floats) -> Floats:
    """Return the probabilities of `logits` (B,), float32."""
    return probabilities(logits)[0]
