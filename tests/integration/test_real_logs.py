"""Real click logs go through the same commands as a user's own: prepare, train, compress, publish, evaluate, serve."""

import json
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from realdata import real_data

from slimctr.clicklogs import Dataset
from slimctr.quickstart.server import RunningService, running_service
from slimctr.quickstart.traffic import Client
from slimctr.scoring import sigmoid

pytestmark = pytest.mark.slow  # trains on real logs

LIMIT_BYTES = 200_000_000
SMALL = ("--set", "epochs=1", "--set", "params.hidden=[32, 32]")
UNSOUND = ("--allow-uncalibrated",)  # one epoch on a few thousand rows


def run(*arguments: object) -> str:
    """Run a command of the CLI in a process of its own; return what it printed."""
    command = [sys.executable, "-m", "slimctr", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def build(source: Path, log_format: str, folder: Path) -> tuple[Dataset, Path]:
    """Take a log to a store with a float version labeled stable and an int8 one labeled canary."""
    data, store = folder / "data", folder / "models"
    run("data", "prepare", source, "--format", log_format, "--out", data)
    assert "click rate" in run("data", "describe", data)
    run("train", "--data", data, "--network", "deepfm", *SMALL, "--out", folder / "original")
    run("compress", "--run", folder / "original", "--method", "ptq", "--out", folder / "int8")
    run(
        "publish",
        "--run",
        folder / "original",
        "--store",
        store,
        "--name",
        "ctr",
        "--label",
        "stable",
        *UNSOUND,
    )
    run("publish", "--run", folder / "int8", "--store", store, "--name", "ctr", "--label", "canary", *UNSOUND)
    run("models", "verify", "ctr@stable", "--store", store)
    return Dataset(data), store


def check_served_equals_evaluated(service: RunningService, dataset: Dataset, data: Path, store: Path) -> None:
    """Raw rows over HTTP rank exactly like the encoded rows in `slimctr evaluate`.

    By their logits: two that differ in the last bit may round to one probability, and their pair to a tie.
    """
    from slimctr.quality import auc

    rows, labels = dataset.raw_test(100_000)
    for label in ("stable", "canary"):
        logits: list[float] = []
        with closing(Client(service.url)) as client:
            for start in range(0, len(rows), 1000):
                part = {"instances": rows[start : start + 1000], "label": label, "include": ["logits"]}
                answer = client.post("/v1/predict", {"model": "ctr", **part})
                expected = sigmoid(np.array(answer["logits"], np.float32))
                np.testing.assert_array_equal(np.float32(answer["scores"]), expected)
                logits.extend(answer["logits"])
        evaluated = json.loads(
            run("evaluate", "--store", store, "--model", f"ctr@{label}", "--data", data, "--json")
        )
        assert len(logits) == evaluated["rows"]
        # logits that ONNX Runtime rounds otherwise by batch may swap one pair in 100,000
        assert auc(labels, np.array(logits)) == pytest.approx(evaluated["auc"], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "log_format"), [("criteo_kaggle_first8k", "criteo"), ("avazu_first9k", "avazu")]
)
def test_a_real_log_is_served_as_it_evaluates(name, log_format, tmp_path, port):
    source = real_data(name)
    dataset, store = build(source, log_format, tmp_path)
    with running_service(
        store=store, experiment=None, state=tmp_path, host="127.0.0.1", port=port
    ) as service:
        check_served_equals_evaluated(service, dataset, tmp_path / "data", store)


def test_frappe_values_are_served_without_torch_within_200_mb(tmp_path, port):
    source = real_data("frappe_x1") / "raw_values"
    dataset, store = build(source, "csv", tmp_path)
    with running_service(
        store=store, experiment=None, state=tmp_path, host="127.0.0.1", port=port
    ) as service:
        check_served_equals_evaluated(service, dataset, tmp_path / "data", store)
        row = dataset.raw_test(1)[0][0]
        assert row["country"].isalpha()
        context = {name: value for name, value in row.items() if name != "item"}
        candidates = [{"item": str(item)} for item in range(200)]
        with closing(Client(service.url)) as client:
            slate = client.post("/v1/predict", {"model": "ctr", "context": context, "candidates": candidates})
            expanded = client.post(
                "/v1/predict", {"model": "ctr", "instances": [context | c for c in candidates]}
            )
        assert len(slate["scores"]) == 200
        assert slate["scores"] == expanded["scores"]
        assert not service.has_torch()
        assert service.proportional_bytes() <= LIMIT_BYTES
