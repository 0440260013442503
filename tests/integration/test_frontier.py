"""`slimctr frontier` as a person runs it: killed, continued, read, published."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import tiny_dataset, tiny_run

from model_store.store import ModelStore
from slimctr.clicklogs import Dataset
from slimctr.errors import ConfigError
from slimctr.frontier.budget import Budget
from slimctr.frontier.job import find_frontier
from slimctr.frontier.search import search
from slimctr.frontier.variants import Workshop
from slimctr.scoring import Scorer
from slimctr.training import load_run

pytestmark = pytest.mark.slow  # searches in processes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    return tiny_run(tiny_dataset(folder / "log"), folder / "run")


@pytest.fixture(scope="module")
def other_run(run, tmp_path_factory):
    return tiny_run(
        Dataset(Path(run.lineage.data)), tmp_path_factory.mktemp("other") / "run", seed=2, epochs=1
    )


def command(run, out, *more):
    head = [sys.executable, "-m", "slimctr", "frontier", "--run", str(run.path), "--out", str(out)]
    return [*head, *map(str, more)]


def test_a_killed_search_goes_on_and_its_best_variant_is_published(run, tmp_path):
    out, store = tmp_path / "out", tmp_path / "store"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(run, out, "--trials", 9), env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(list(out.glob("variants/*/variant.json"))) < 3 and time.monotonic() < until:
        assert process.poll() is None, "the search ended too soon"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("variants/*/variant.json")}
    assert len(before) >= 3
    journal = out / "trials.log"
    os.symlink(
        journal, out / "trials.log.lock"
    )  # what Optuna's own lock leaves of a process killed inside it
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"wor')
    (out / "variants" / "cut-short").mkdir()
    assert not (out / "report.html").exists()

    more = (
        "--trials",
        6,
        "--budget",
        "auc_drop<=0.02",
        "--publish",
        store,
        "--name",
        "ctr",
        "--label",
        "canary",
    )
    done = subprocess.run(
        command(run, out, *more), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert not (out / "variants" / "cut-short").exists()
    found = json.loads((out / "frontier.json").read_text())
    assert found["trials"] >= 6
    variants = {variant["key"]: variant for variant in found["variants"]}
    best = variants[found["recommended"]]
    # the budget that the command was given
    assert best["valid"]["auc"] >= found["original"]["valid"]["auc"] - 0.02
    within = [
        v["bytes"]["artifact"]
        for v in variants.values()
        if v["valid"]["auc"] >= found["original"]["valid"]["auc"] - 0.02
    ]
    assert best["bytes"]["artifact"] == min(within)
    for key in found["front"]:
        assert {"1", "32", "512"} == set(variants[key]["speed"]["speed_ratio"])
        assert variants[key]["bytes"]["resident"] > 0
        assert 0 < variants[key]["test"]["auc"] < 1
    assert (out / "report.html").stat().st_size > 1_000_000
    published = ModelStore(store)
    assert published.resolve("ctr@canary") == ("ctr", 1)
    scorer = Scorer.open(published.path("ctr", 1))
    scorer.check_golden()
    assert published.manifest("ctr", 1).artifact_bytes == best["bytes"]["artifact"]


def test_two_processes_share_the_trials_and_no_variant_may_be_good_enough(run, tmp_path):
    more = ("--trials", 4, "--jobs", 2, "--budget", "artifact_ratio>=1000000")
    done = subprocess.run(command(run, tmp_path / "out", *more), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no variant is within artifact_ratio>=1e+06" in done.stdout
    assert json.loads((tmp_path / "out" / "frontier.json").read_text())["recommended"] is None


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install slimctr[ray]"
)
def test_tasks_of_ray_share_the_trials(run, tmp_path):
    """From another folder and with relative paths, which must mean the same to a worker."""
    more = ("--trials", 3, "--jobs", 2, "--workers", "ray", "--budget", "auc_drop<=1")
    relative = os.path.relpath(run.path, tmp_path)
    done = subprocess.run(
        [*command(run, "out", *more), "--run", relative],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert found["trials"] == 3
    assert found["recommended"] is not None


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install slimctr[ray]"
)
def test_what_fails_in_a_task_of_ray_is_told_as_elsewhere(run, tmp_path):
    with pytest.raises(ConfigError, match="gone") as caught:
        search(tmp_path, tmp_path / "gone", None, 1, 1, 1, workers="ray")
    assert "Traceback" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_is_asked_for_and_not_there(run, tmp_path):
    more = ("--trials", 1, "--workers", "ray")
    done = subprocess.run(command(run, tmp_path / "out", *more), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'slimctr[ray]'" in done.stderr


def test_figures_and_variants_are_those_of_the_run_that_was_searched(run, other_run, tmp_path):
    """Also where another run lies at the same path by now, and where a variant was replaced since it was measured."""
    where, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(run.path, where)
    budget, data = Budget.parse("auc_drop<=1"), Path(run.lineage.data)
    found = find_frontier(where, budget, out, data=data, trials=1)
    kept = (out / "frontier.json").read_bytes()
    variant = out / "variants" / found["recommended"] / "run"
    assert Workshop(out, load_run(where), data).variant_run(found["recommended"]).path == variant
    for name in ("spec.json", "weights.safetensors"):
        shutil.copy(run.path / name, variant / name)
    with pytest.raises(ConfigError, match="is not the one that was measured"):
        Workshop(out, load_run(where), data).variant_run(found["recommended"])
    shutil.rmtree(where)
    shutil.copytree(other_run.path, where)
    with pytest.raises(ConfigError, match="the weights of the run differ; choose another --out"):
        find_frontier(where, budget, out, data=data, trials=1)
    assert (out / "frontier.json").read_bytes() == kept


def test_wrong_input_ends_in_one_line(run, tmp_path):
    for more, reason in (
        (("--budget", "auc<=1"), "no term of a budget"),
        (("--publish", tmp_path), "--publish and --name go together"),
        (("--publish", tmp_path, "--name", "stats"), "'stats' cannot name a model"),
        (("--publish", tmp_path, "--name", "ctr", "--label", "7"), "'7' cannot name a label"),
    ):
        done = subprocess.run(
            command(run, tmp_path / "out", *more), capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
