"""What the machine can do, and what it is: a large matrix product, a large copy, names and versions."""

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from benchmarks.machine import instructions, machine

GEMM_ROWS = 768
COPY_BYTES = 256 * 2**20
PACKAGES = ("torch", "onnxruntime", "numpy", "fbgemm-gpu-cpu")


def gemm() -> tuple[Callable[[int], object], float]:
    """Return a call that multiplies two float32 matrices, and its floating point operations."""
    one, other = torch.randn(GEMM_ROWS, GEMM_ROWS), torch.randn(GEMM_ROWS, GEMM_ROWS)
    out = torch.empty(GEMM_ROWS, GEMM_ROWS)
    return lambda _: torch.mm(one, other, out=out), 2.0 * GEMM_ROWS**3


def copy() -> tuple[Callable[[int], object], float]:
    """Return a call that copies an array beyond every cache, and the bytes that it reads and writes."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    return lambda _: np.copyto(target, source), 2.0 * COPY_BYTES


def origin() -> dict[str, object]:
    """Date, processor and the versions of the libraries that are compared."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "instructions": instructions(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
