"""The run directory: a trained or compressed model with everything needed to explain it."""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from slimctr.errors import ConfigError
from slimctr.networks import CtrModel, ModelSpec, build_model
from slimctr.training.checkpoint import EpochRecord
from slimctr.training.config import TrainConfig, read_settings

CONFIG_FILE = "config.yaml"
SPEC_FILE = "spec.json"
WEIGHTS_FILE = "weights.safetensors"
HISTORY_FILE = "history.jsonl"
METRICS_FILE = "metrics.json"
LINEAGE_FILE = "lineage.json"
CHECKPOINT_FILE = "checkpoint.pt"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodStep(_Record):
    """One compression step: its settings, how long it took and what it measured."""

    method: str
    settings: dict[str, Any]
    seconds: float
    statistics: dict[str, Any] = {}


class Lineage(_Record):
    """Where a model comes from.

    `oov_fields_set_to_mean` names the fields whose out-of-vocabulary row training never reached; it holds the
    mean row of the field, weighted by training count. `data_sha256` has a digest for every data file.
    """

    seed: int
    git_revision: str | None
    data: str
    data_sha256: dict[str, str]
    oov_fields_set_to_mean: tuple[str, ...] = ()
    parent: str | None = None
    methods: tuple[MethodStep, ...] = ()


@dataclass(frozen=True)
class Run:
    """A finished run. `metrics` maps "valid" and "test" to their metrics; `model` is in evaluation mode."""

    path: Path
    spec: ModelSpec
    model: CtrModel
    config: TrainConfig
    lineage: Lineage
    metrics: Mapping[str, Mapping[str, float]]


def start_run(folder: Path, config: TrainConfig, lineage: Lineage) -> None:
    """Make the folder of a run and write what is known before training: lineage, then configuration.

    Raises ConfigError when the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run directory '{folder}' cannot be made: {error}") from error
    _write(folder / LINEAGE_FILE, lineage.model_dump_json(indent=2).encode())
    _write(folder / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())


def is_started(folder: Path) -> bool:
    """True when a run was begun in this folder."""
    return (folder / CONFIG_FILE).is_file()


def is_finished(folder: Path) -> bool:
    """True when the run in this folder is complete."""
    return (folder / METRICS_FILE).is_file()


def save_run(run: Run, history: Iterable[EpochRecord] = ()) -> None:
    """Write a run to its path; metrics.json comes last, so a directory that has it is complete.

    Files of an earlier state are replaced. Raises ConfigError when the folder cannot be made.
    """
    start_run(run.path, run.config, run.lineage)
    _write(run.path / SPEC_FILE, run.spec.model_dump_json(indent=2).encode())
    weights = {name: tensor.detach().contiguous() for name, tensor in run.model.state_dict().items()}
    _write(run.path / WEIGHTS_FILE, save(weights))
    lines = (json.dumps(asdict(record)) + "\n" for record in history)
    _write(run.path / HISTORY_FILE, "".join(lines).encode())
    _write(run.path / METRICS_FILE, json.dumps(run.metrics, indent=2).encode())


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a finished run. Raises ConfigError when a file is missing, damaged or does not fit the others."""
    folder = Path(path)
    if not is_finished(folder):
        state = "holds an unfinished training" if is_started(folder) else "is no run directory"
        raise ConfigError(f"'{folder}' {state}; make a run with: slimctr train --data DIR --out RUN")
    try:
        spec = ModelSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
        metrics = json.loads((folder / METRICS_FILE).read_bytes())
        with torch.random.fork_rng(devices=[]):
            model = build_model(spec)
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"run '{folder}' cannot be read: {error}") from error
    return Run(folder, spec, model.eval(), read_config(folder), read_lineage(folder), metrics)


def read_config(folder: Path) -> TrainConfig:
    """Read the resolved configuration of a run. Raises ConfigError when it is missing or does not fit."""
    return TrainConfig.resolve(read_settings(folder / CONFIG_FILE))


def read_lineage(folder: Path) -> Lineage:
    """Read the lineage of a run. Raises ConfigError when it is missing or does not fit."""
    try:
        return Lineage.model_validate_json((folder / LINEAGE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"lineage of run '{folder}' cannot be read: {error}") from error


def git_revision() -> str | None:
    """Return the commit of the checkout this code runs from, `-dirty` after edits; None outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
