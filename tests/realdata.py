"""Finds the real click logs that some tests read; they are never part of the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def real_data(name: str) -> Path:
    """Return the folder `name` of the data root; skip when it is absent, fail when CI=true and it is absent.

    The root is SLIMCTR_DATA, else ./data, else ../shared/data beside the checkout.
    """
    candidates = [os.environ.get("SLIMCTR_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"]
    for root in candidates:
        if root and (Path(root) / name).is_dir():
            return Path(root) / name
    message = f"real data '{name}' not found under SLIMCTR_DATA, ./data or ../shared/data"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
