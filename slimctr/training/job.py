"""From an encoded data set and a configuration to a run directory."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from slimctr import quality
from slimctr.clicklogs.dataset import Dataset
from slimctr.errors import ConfigError
from slimctr.features import FeatureSchema
from slimctr.folders import sole_writer
from slimctr.networks import CtrModel, FloatTable, MaskedTable, ModelSpec, build_model, float_spec
from slimctr.training.baseline import fit_regression
from slimctr.training.batches import TensorSplit
from slimctr.training.config import TrainConfig
from slimctr.training.evaluation import Scores, measure, score
from slimctr.training.progress import Silent, TrainingProgress
from slimctr.training.room import require_room
from slimctr.training.run import (
    CHECKPOINT_FILE,
    Lineage,
    Run,
    git_revision,
    is_finished,
    is_started,
    load_run,
    read_config,
    read_lineage,
    save_run,
    start_run,
    sweep,
)
from slimctr.training.trainer import fit


def train(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    baseline: bool = False,
    progress: TrainingProgress | None = None,
) -> Run:
    """Train a network on an encoded data set, evaluate it on validation and test rows, write the run.

    With `baseline`, the metrics also tell a logistic regression on the same rows, see `against_regression`.
    With `resume`, an interrupted run goes on from its last epoch and a finished one is returned as it is.
    A metric that is not defined on a split is left out and said to `progress`. Raises ConfigError when `out` holds
    a run and `resume` is not set, when its configuration or data differ, when a split has one class only, when
    memory or disk are too small, and when training diverges.
    """
    progress = progress or Silent()
    dataset = Dataset(data)
    column = _group_column(config, dataset.schema)
    digests = {entry["file"]: entry["sha256"] for entry in dataset.info["files"]}
    if is_started(out):
        _check_resumable(config, digests, out, resume)
        if is_finished(out):
            sweep(out)
            return load_run(out)
    splits = {name: _load(dataset, name) for name in ("train", "valid", "test")}
    _require_steps(config, splits["train"])
    groups = _groups(config, column, splits, progress)
    require_room(initial_spec(config, dataset), config, len(splits["train"]), out)
    with sole_writer(out):
        if not is_started(out):
            started = Lineage(
                seed=config.seed, git_revision=git_revision(), data=str(data), data_sha256=digests
            )
            start_run(out, config, started)
        model = initial_model(config, dataset)
        history = fit(
            model,
            config,
            splits["train"],
            splits["valid"],
            progress=progress,
            checkpoint=out / CHECKPOINT_FILE,
        )
        counts = [dataset.counts(name) for name in dataset.schema.names]
        untrained = set_untrained_oov_rows(model, counts)
        regression = None
        if baseline:
            regression = fit_regression(
                splits["train"], splits["valid"], dataset.schema, dataset.rows_per_field, config.seed
            )
        metrics = {}
        for name in ("valid", "test"):
            split = splits[name]
            scores = Scores(score(model, split), split.labels.numpy())
            try:
                metrics[name] = measure(scores, groups.get(name))
            except ValueError as undefined:
                progress.note(f"metrics of the {name} rows are left out: {undefined}")
                metrics[name] = {}
                continue
            if regression is not None:
                metrics[name] |= against_regression(scores, regression.logits(split))
        set_to_mean = tuple(dataset.schema.names[index] for index in untrained)
        lineage = read_lineage(out).model_copy(update={"oov_fields_set_to_mean": set_to_mean})
        run = save_run(Run(out, model.spec, model, config, lineage, metrics), history)
        sweep(out)
        return run


def against_regression(scores: Scores, regression: np.ndarray) -> dict[str, float]:
    """Return how scores of a split compare with logits (n,) of a logistic regression on the same rows.

    `lr_auc`, `lr_ne` and `lr_calibration` are figures of the regression. Where the split has two clicks and two other
    rows: `auc_error` and `lr_auc_error` are standard errors, `lr_auc_gain` is by how much the AUC of the scores is
    higher, `lr_auc_gain_error` the standard error of that over the same rows.
    """
    labels = scores.labels
    figures = {f"lr_{name}": value for name, value in quality.summary(labels, regression).items()}
    told = {name: figures[name] for name in ("lr_auc", "lr_ne", "lr_calibration")}
    if min(labels.sum(), len(labels) - labels.sum()) < 2:
        return told
    gain, error = quality.auc_difference(labels, scores.logits, regression)
    return {
        **told,
        "auc_error": quality.auc_error(labels, scores.logits),
        "lr_auc_error": quality.auc_error(labels, regression),
        "lr_auc_gain": gain,
        "lr_auc_gain_error": error,
    }


def initial_spec(config: TrainConfig, dataset: Dataset) -> ModelSpec:
    """Return the specification of the model that a configuration trains on a data set."""
    return float_spec(
        config.network,
        dim=config.dim,
        field_names=dataset.schema.names,
        rows=dataset.rows_per_field,
        pooling=[field.pooling if field.multivalued else None for field in dataset.schema.fields],
        params=config.params,
        negative_sampling_rate=config.negative_sampling_rate,
    )


def initial_model(config: TrainConfig, dataset: Dataset) -> CtrModel:
    """Return the model of a configuration with initial weights drawn from its seed."""
    spec = initial_spec(config, dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(spec)
    set_start_bias(model, config, dataset)
    return model


@torch.no_grad()
def set_start_bias(model: CtrModel, config: TrainConfig, dataset: Dataset) -> None:
    """Set the bias of the head of a model with initial weights to the log-odds of a click in the training rows.

    The odds are those of the rows that an epoch draws: of the negatives, a share `negative_sampling_rate`. The
    model adds the logarithm of that share, so its logits start at the log-odds of all rows. With `bias_start`
    zero the model stays as it is.
    """
    if config.bias_start == "click_rate":
        tally = dataset.info["splits"]["train"]
        odds = (tally["clicks"] + 0.5) / (tally["rows"] - tally["clicks"] + 0.5)
        model.backbone.head.bias.fill_(math.log(odds) - model.logit_correction)


@torch.no_grad()
def set_untrained_oov_rows(model: CtrModel, counts: list[np.ndarray]) -> list[int]:
    """Set the out-of-vocabulary row of fields that never met one to the mean row, weighted by training count.

    Otherwise an unlisted value would read random initial weights. Wide tables are treated the same. `counts`
    has one int64 array (N_f,) per field; returns the indices of the fields that were set.
    """
    untrained = [index for index, count in enumerate(counts) if count[0] == 0 and count.sum() > 0]
    for tables in (model.tables, model.wide):
        for index in untrained if tables is not None else ():
            table, share = tables[index], torch.from_numpy(counts[index] / counts[index].sum())
            if isinstance(table, FloatTable):
                table.weight[0] = (share @ table.weight.double()).float()
            elif isinstance(table, MaskedTable):
                table.set_first_row((share @ table.dense().double()).float())
    return untrained


def _load(dataset: Dataset, name: str) -> TensorSplit:
    split = TensorSplit.of(dataset.load(name))
    if len(split.labels.unique()) < 2:
        raise ConfigError(
            f"the {name} split of '{dataset.path}' has no click or nothing but clicks; split the log otherwise"
        )
    return split


def _require_steps(config: TrainConfig, train: TensorSplit) -> None:
    """Raise ConfigError when the draw of the negatives may leave an epoch less than the two rows of a step."""
    clicks = int(train.labels.sum())
    if config.negative_sampling_rate < 1 and clicks < 2:
        raise ConfigError(
            f"negative_sampling_rate is {config.negative_sampling_rate:g} and the training split has {clicks} click: "
            "an epoch may be left without a step; set negative_sampling_rate=1"
        )


def _groups(
    config: TrainConfig, column: int | None, splits: Mapping[str, TensorSplit], progress: TrainingProgress
) -> dict[str, np.ndarray]:
    """Return the groups (n,) of gAUC for each split whose gAUC is defined; say which one's is not."""
    groups = {}
    for name in ("valid", "test") if column is not None else ():
        values = splits[name].ids[:, column].numpy()
        if quality.has_gauc(splits[name].labels.numpy(), values):
            groups[name] = values
        else:
            progress.note(
                f"gAUC of the {name} rows is left out: no value of gauc_field '{config.gauc_field}' has both a "
                "click and a non-click there"
            )
    return groups


def _check_resumable(config: TrainConfig, digests: dict[str, str], out: Path, resume: bool) -> None:
    if not resume:
        raise ConfigError(f"'{out}' holds a run already; choose another --out, or continue it with --resume")
    before, now = read_config(out).model_dump(), config.model_dump()
    if different := [key for key in now if now[key] != before[key]]:
        changes = ", ".join(f"{key} was {before[key]}, is {now[key]}" for key in different)
        raise ConfigError(f"'{out}' was started with other settings ({changes}); resume with the same ones")
    started_on = read_lineage(out)
    if started_on.data_sha256 != digests:
        raise ConfigError(
            f"'{out}' was started on other data ('{started_on.data}'); resume with the same data"
        )


def _group_column(config: TrainConfig, schema: FeatureSchema) -> int | None:
    """Return the column of `ids` that gAUC groups by."""
    if config.gauc_field is None:
        return None
    single = [schema.names[position] for position in schema.single]
    if config.gauc_field not in single:
        raise ConfigError(
            f"gauc_field {config.gauc_field!r} is no single-valued field; choose from {', '.join(single)}"
        )
    return single.index(config.gauc_field)
