import re
import socket

import numpy as np
import pytest

from slimctr.clicklogs import PrepareSettings
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.quickstart.demo import run_demo
from slimctr.quickstart.pipeline import ORIGINAL, RECIPES, Clicks

pytestmark = pytest.mark.slow  # the demo


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_demo_trains_compresses_publishes_serves_and_compares(tmp_path, free_port, capsys):
    spec = SyntheticSpec(rows=12_000, ids=3_000, seed=3)
    settings = PrepareSettings("synthetic", synthetic=spec)
    clicks = Clicks(
        "a small synthetic log", "tiny", settings, "C1", {"epochs": 1, "params": {"hidden": [64, 64]}}
    )
    lines = run_demo(clicks, tmp_path / "models", tmp_path / "work", "127.0.0.1", free_port, True)
    assert [line.name for line in lines] == [ORIGINAL, *RECIPES]
    assert all(0.5 < line.auc < 1 and np.isfinite(line.logloss) for line in lines)
    assert all(line.payload_bytes < lines[0].payload_bytes for line in lines[1:])
    printed = capsys.readouterr().out
    assert "/dashboard" in printed
    assert re.search(rf"served by the experiment: {ORIGINAL} [\d,]+ rows, {RECIPES[-1]} [\d,]+ rows", printed)
    assert "without torch" in printed
