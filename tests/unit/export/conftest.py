"""One trained DeepFM on a small log, shared by the tests of this folder."""

import pytest
from tiny_runs import tiny_dataset, tiny_run


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="session")
def run(dataset, tmp_path_factory):
    return tiny_run(dataset, tmp_path_factory.mktemp("run") / "deepfm")
