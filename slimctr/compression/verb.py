"""The verb `compress`: applies a chain of methods to a run, trains on, measures, writes another run."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slimctr import quality
from slimctr.compression.data import CompressionData, data_of_run
from slimctr.compression.factors import make_bases_orthonormal
from slimctr.compression.method import Settings
from slimctr.compression.recipes import Step, chain
from slimctr.compression.report import Candidate, build_report, model_bytes
from slimctr.compression.row_dropping import table_counts
from slimctr.errors import CompressionError, ConfigError
from slimctr.folders import sole_writer
from slimctr.networks import CtrModel
from slimctr.training import (
    EpochRecord,
    MethodStep,
    Run,
    Scores,
    TrainingProgress,
    figure,
    fit,
    git_revision,
    kept_epoch,
    load_run,
    measure,
    save_run,
    score,
)
from slimctr.training.job import set_untrained_oov_rows
from slimctr.training.run import REPORT_FILE, discard_compression, is_finished, start_run, write_whole

SPLITS = ("valid", "test")


def compress(
    run: Run,
    method: str,
    settings: Mapping[str, Any],
    data: Path | None,
    out: Path,
    *,
    progress: TrainingProgress | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> Run:
    """Compress `run` by a method, a chain of methods or a recipe, and write the result to `out` with a
    report.

    `data` is the encoded data set the run was trained on (None: where its lineage says). Each step is fine-tuned
    as its settings say, on the same training rows, and keeps the weights of the best validation AUC. Test rows are
    scored once, at the end. The run is written first, then the report; models that it cannot compare with are left
    out of it and said to `progress`. What a killed compression left in `out` is removed; a run there that the same
    steps made of the same run is returned. Raises CompressionError for unknown names or settings and for a chain
    that makes no sense, ConfigError when `out` holds anything else or the data set is not the run's.
    """
    steps = chain(method, settings)
    source = CompressionData(data_of_run(run, data), run.config, progress, teacher=run.model)
    lineage = run.lineage.model_copy(
        update={
            "git_revision": git_revision(),
            "data": str(source.dataset.path),
            "parent": str(run.path),
            "parent_sha256": dict(run.sha256),
        }
    )
    with sole_writer(out):
        discard_compression(out)
        if (there := _made_already(run, steps, out)) is not None:
            source.progress.note(f"'{out}' was made by the same steps of the same run before")
            if not (out / REPORT_FILE).is_file():
                _write_report(run, there, _scores(there.model, source), source)
            return there
        out.mkdir(exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError(f"'{out}' is not empty; choose another --out")
        start_run(out, run.config, lineage)
        try:
            return _compress(run, steps, source, replace(run, path=out, lineage=lineage), announce)
        finally:
            discard_compression(out)


def _made_already(run: Run, steps: list[Step], out: Path) -> Run | None:
    """Return the run in `out` when `run` and these steps would make it again; None for another one, or none."""
    if not is_finished(out):
        return None
    there = load_run(out)
    known = len(run.lineage.methods)
    done = [(step.method, step.settings) for step in there.lineage.methods[known:]]
    asked = [(step.method.name, step.config.model_dump(mode="json")) for step in steps]
    is_same = (
        there.lineage.parent_sha256 == run.sha256 and there.lineage.data_sha256 == run.lineage.data_sha256
    )
    return there if is_same and done == asked else None


def _compress(
    run: Run, steps: list[Step], source: CompressionData, target: Run, announce: Callable[[str], None]
) -> Run:
    """Make the run `target` of `run`: its path and lineage are set, its model, steps and metrics are not yet."""
    model, done, history = run.model, [], []
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        announce(f"{step.method.name} {_told(step.config)}".rstrip())
        model, record, epochs = _apply(step, following, model, source)
        done.append(record)
        history.extend(epochs)
        if reason := record.statistics.get("left_out"):
            source.progress.note(f"{step.method.name} is left out: {reason}")
    announce("scoring validation and test rows")
    scores = _scores(model, source)
    try:
        metrics = {split: measure(scores[split]) for split in SPLITS}
    except ValueError as undefined:
        raise CompressionError(f"the compressed model cannot be used: {undefined}") from None
    lineage = target.lineage.model_copy(update={"methods": (*run.lineage.methods, *done)})
    compressed = save_run(
        replace(target, spec=model.spec, model=model, lineage=lineage, metrics=metrics), history
    )
    _write_report(run, compressed, scores, source)
    return compressed


def _write_report(run: Run, compressed: Run, scores: Mapping[str, Scores], source: CompressionData) -> None:
    """Write the report of a run that was made of `run`, or say why it is left out."""
    candidates = {
        name: Candidate(model_bytes(other.model), _scores(other.model, source), other.sha256)
        for name, other in _ancestors(run, source.progress)
    }
    small = Candidate(model_bytes(compressed.model), scores, compressed.sha256)
    try:
        report = build_report({**candidates, "compressed": small})
    except ValueError as undefined:
        source.progress.note(f"the report is left out: {undefined}")
    else:
        write_whole(compressed.path / REPORT_FILE, json.dumps(report, indent=2).encode())


def _apply(
    step: Step, following: Step | None, model: CtrModel, data: CompressionData
) -> tuple[CtrModel, MethodStep, list[EpochRecord]]:
    """Apply a step and train on, but not before the `following` one is known to fit what it made."""
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        outcome = step.method.apply(model, data, step.config)
    if following is not None:
        following.method.require_applicable(outcome.model.spec, following.config)
    history = list(outcome.history)
    statistics = {"kept_epoch": 0, **outcome.statistics}
    if tuned := fine_tune(outcome.model, step.config, data):
        history += tuned.history
        statistics |= {"valid_auc_before": tuned.auc_before, "kept_epoch": tuned.kept_epoch}
        make_bases_orthonormal(outcome.model)
    record = MethodStep(
        method=step.method.name,
        settings=step.config.model_dump(mode="json"),
        seconds=round(time.perf_counter() - started, 3),
        statistics=statistics,
    )
    return outcome.model, record, history


@dataclass(frozen=True)
class FineTuning:
    """Epochs of a fine-tuning, validation AUC before it, and the epoch whose weights stayed (0: none helped)."""

    history: list[EpochRecord]
    auc_before: float
    kept_epoch: int


def fine_tune(model: CtrModel, settings: Settings, data: CompressionData) -> FineTuning | None:
    """Train a compressed model on in place with the loss of its run: fresh Adam, the best epoch is kept.

    Returns None when `settings` ask for no epochs.
    When no epoch beats the model as it was, it stays as it was, unless it has `pair_relu` layers, which are not
    meant to be used untrained. Integer codes never move; with `train_codes` false float rows do not either.
    """
    training = settings.retraining(data.training)
    if training is None:
        return None
    valid = data.split("valid")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels, logits = valid.labels.numpy(), score(model, valid)
    auc_before = quality.auc(labels, logits)
    figure_before = figure(training.select, auc_before, quality.logloss(labels, logits))
    rows = [*model.tables.parameters(), *(model.wide.parameters() if model.wide is not None else ())]
    for parameter in rows:
        parameter.requires_grad_(settings.train_codes)
    history = fit(
        model,
        training,
        data.training_rows(settings.kd_weight),
        valid,
        progress=data.progress,
        kd_weight=settings.kd_weight,
    )
    for parameter in rows:
        parameter.requires_grad_(True)
    best = kept_epoch(history)
    needs_training = any(layer.kind == "pair_relu" for layer in model.spec.layers)
    if best.figure(training.select) <= figure_before and not needs_training:
        model.load_state_dict(before)
        return FineTuning(history, auc_before, 0)
    if settings.train_codes:
        set_untrained_oov_rows(model, table_counts(model, data.counts))
    return FineTuning(history, auc_before, best.epoch)


def _ancestors(run: Run, progress: TrainingProgress) -> list[tuple[str, Run]]:
    """The float original and, where it is another model, the parent: what the report compares with.

    An ancestor is known by its digests: one whose path holds another run by now, or none, is left out.
    """
    original = run
    while (path := original.lineage.parent) is not None:
        try:
            above = load_run(path)
            problem = "it was made anew" if above.sha256 != original.lineage.parent_sha256 else None
        except ConfigError as error:
            problem = str(error)
        if problem is not None:
            progress.note(
                f"the report leaves the original out: '{path}', of which '{original.path}' was made, is not there "
                f"any more ({problem})"
            )
            return [("parent", run)]
        original = above
    return [("original", run)] if original is run else [("original", original), ("parent", run)]


def _scores(model: CtrModel, data: CompressionData) -> dict[str, Scores]:
    return {
        split: Scores(score(model, data.split(split)), data.split(split).labels.numpy()) for split in SPLITS
    }


def _told(config: Settings) -> str:
    """The settings that differ from their defaults, as a person would type them."""
    return " ".join(f"{name}={value}" for name, value in config.model_dump(exclude_defaults=True).items())
