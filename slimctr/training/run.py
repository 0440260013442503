"""The run directory: a trained or compressed model with everything needed to explain it."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
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
REPORT_FILE = "report.json"
RUN_FILES = (CONFIG_FILE, SPEC_FILE, WEIGHTS_FILE, HISTORY_FILE, METRICS_FILE, LINEAGE_FILE, REPORT_FILE)
PARTIAL = ".partial"


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
    `parent` says where the run before compression was, `parent_sha256` (as in `Run.sha256`) which one it was.
    """

    seed: int
    git_revision: str | None
    data: str
    data_sha256: dict[str, str]
    oov_fields_set_to_mean: tuple[str, ...] = ()
    parent: str | None = None
    parent_sha256: dict[str, str] | None = None
    methods: tuple[MethodStep, ...] = ()


@dataclass(frozen=True)
class Run:
    """A finished run. `metrics` maps "valid" and "test" to their metrics; `model` is in evaluation mode.

    `sha256` has the digests of specification and weights by file name, as they were read or written: the same
    path may hold another run later.
    """

    path: Path
    spec: ModelSpec
    model: CtrModel
    config: TrainConfig
    lineage: Lineage
    metrics: Mapping[str, Mapping[str, float]]
    sha256: Mapping[str, str] = field(default_factory=dict)


def start_run(folder: Path, config: TrainConfig, lineage: Lineage) -> None:
    """Make the folder of a run and write what is known before training: lineage, then configuration.

    Raises ConfigError when the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run directory '{folder}' cannot be made: {error}") from error
    write_whole(folder / LINEAGE_FILE, lineage.model_dump_json(indent=2).encode())
    write_whole(
        folder / CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode()
    )


def sweep(folder: Path) -> None:
    """Remove what a complete run does not need: its checkpoint, and files that a killed process was writing."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    for name in (*RUN_FILES, CHECKPOINT_FILE):
        (folder / (name + PARTIAL)).unlink(missing_ok=True)


def discard_compression(folder: Path) -> None:
    """Remove the files of a compression that was cut short, and their folder when it holds nothing else.

    Anything else stays as it is: a complete run, and a training that can be resumed.
    """
    if is_finished(folder):
        return
    (folder / (LINEAGE_FILE + PARTIAL)).unlink(missing_ok=True)
    if (folder / LINEAGE_FILE).is_file() and read_lineage(folder).parent is not None:
        for name in (*(name for name in RUN_FILES if name != LINEAGE_FILE), LINEAGE_FILE):
            (folder / (name + PARTIAL)).unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def is_started(folder: Path) -> bool:
    """True when a run was begun in this folder."""
    return (folder / CONFIG_FILE).is_file()


def is_finished(folder: Path) -> bool:
    """True when the run in this folder is complete."""
    return (folder / METRICS_FILE).is_file()


def save_run(run: Run, history: Iterable[EpochRecord] = ()) -> Run:
    """Write a run to its path and return it with its digests.

    metrics.json comes last, so a directory that has it is complete. Files of an earlier state are replaced.
    Raises ConfigError when the folder cannot be made.
    """
    start_run(run.path, run.config, run.lineage)
    weights = {name: tensor.detach().contiguous() for name, tensor in run.model.state_dict().items()}
    contents = {SPEC_FILE: run.spec.model_dump_json(indent=2).encode(), WEIGHTS_FILE: save(weights)}
    for name, content in contents.items():
        write_whole(run.path / name, content)
    lines = (json.dumps(asdict(record)) + "\n" for record in history)
    write_whole(run.path / HISTORY_FILE, "".join(lines).encode())
    write_whole(run.path / METRICS_FILE, json.dumps(run.metrics, indent=2).encode())
    return replace(
        run, sha256={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    )


def model_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of specification and weights of a run by file name. Raises OSError without them."""
    digests = {}
    for name in (SPEC_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a finished run.

    Raises ConfigError when a file is missing, damaged, does not fit the others or changes while it is read.
    """
    folder = Path(path)
    if not is_finished(folder):
        state = "holds an unfinished training" if is_started(folder) else "is no run directory"
        raise ConfigError(f"'{folder}' {state}; make a run with: slimctr train --data DIR --out RUN")
    try:
        before, digests = _states(folder), model_digests(folder)
        spec = ModelSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
        metrics = json.loads((folder / METRICS_FILE).read_bytes())
        with torch.random.fork_rng(devices=[]):
            model = build_model(spec)
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        config, lineage = read_config(folder), read_lineage(folder)
        changed = before != _states(folder)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"run '{folder}' cannot be read: {error}") from error
    if changed:
        raise ConfigError(f"run '{folder}' was written anew while it was read; run the command again")
    return Run(folder, spec, model.eval(), config, lineage, metrics, digests)


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


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one rename; what was there stays when that fails. Raises OSError naming the file."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def _states(folder: Path) -> list[tuple[int, int, int]]:
    """Return inode, size and time of the files that make a model: a file written anew has others."""
    states = (
        (folder / name).stat() for name in (CONFIG_FILE, LINEAGE_FILE, SPEC_FILE, WEIGHTS_FILE, METRICS_FILE)
    )
    return [(state.st_ino, state.st_size, state.st_mtime_ns) for state in states]
