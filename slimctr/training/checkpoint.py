"""The state of an unfinished training, and its file."""

import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimctr.errors import ConfigError
from slimctr.training.config import Select


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: a line of history.jsonl. `loss` is the training log-loss without the L2 term.

    Where another model is imitated, the weighted squared difference to its logits is part of `loss`.
    """

    epoch: int
    loss: float
    valid_auc: float
    valid_logloss: float
    learning_rate: float
    seconds: float
    is_best: bool

    def figure(self, select: Select) -> float:
        """Return what epochs are compared by, higher is better."""
        return figure(select, self.valid_auc, self.valid_logloss)


def figure(select: Select, valid_auc: float, valid_logloss: float) -> float:
    """Return what states of a model are compared by, higher is better.

    NE is the log-loss over a constant of the validation rows, so both order states alike.
    """
    return valid_auc if select == "auc" else -valid_logloss


def kept_epoch(history: Sequence[EpochRecord]) -> EpochRecord:
    """Return the epoch whose weights a training of at least one epoch ended with."""
    return [record for record in history if record.is_best][-1]


@dataclass
class FitState:
    """Where training stands between two epochs."""

    history: list[EpochRecord] = field(default_factory=list)
    best_figure: float = float("-inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epochs_without_gain: int = 0
    stale_epochs: int = 0

    def record_epoch(self, record: EpochRecord, weights: dict[str, Tensor], select: Select) -> None:
        """Add an epoch, keep its weights when it is the best so far."""
        self.history.append(record)
        if record.is_best:
            self.best_figure = record.figure(select)
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
            self.stale_epochs = 0
        else:
            self.epochs_without_gain += 1
            self.stale_epochs += 1


def write_checkpoint(
    path: Path, state: FitState, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Replace the checkpoint file in one rename, so that a crash leaves the old one or the new one.

    Raises ConfigError when it cannot be written; the old one stays.
    """
    values = {
        "history": [asdict(record) for record in state.history],
        "best_figure": state.best_figure,
        "best_weights": state.best_weights,
        "epochs_without_gain": state.epochs_without_gain,
        "stale_epochs": state.stale_epochs,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(
            f"checkpoint '{path}' cannot be written ({_cause(error)}); make room, then go on with --resume"
        ) from error


def _cause(error: BaseException) -> str:
    """Return the reason of the operating system; torch hides it behind an error of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return str(error) if cause is None else str(cause.strerror)


def read_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> FitState:
    """Load a checkpoint into the model and the optimizer and return the rest.

    Raises ConfigError when the file is damaged or belongs to another model.
    """
    try:
        values: dict[str, Any] = torch.load(path, weights_only=True)
        model.load_state_dict(values["model"])
        optimizer.load_state_dict(values["optimizer"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        raise ConfigError(
            f"checkpoint '{path}' is damaged or belongs to another model; remove it and train again"
        ) from error
    return FitState(
        history=[EpochRecord(**record) for record in values["history"]],
        best_figure=values["best_figure"],
        best_weights=values["best_weights"],
        epochs_without_gain=values["epochs_without_gain"],
        stale_epochs=values["stale_epochs"],
    )
