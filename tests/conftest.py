"""Puts tests/ on the path so that tests share small modules such as `realdata`; a small log and a DeepFM of it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """An encoded log of 8,000 rows."""
    from tiny_runs import tiny_dataset

    return tiny_dataset(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="session")
def run(dataset, tmp_path_factory):
    """A DeepFM trained on it."""
    from tiny_runs import tiny_run

    return tiny_run(dataset, tmp_path_factory.mktemp("run") / "deepfm")


def pytest_make_parametrize_id(val, argname):
    """Name bytes by their argument: gzip writes the time, and two processes must name their tests alike."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    """Begin with the slow files, so that no core waits for the last of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
