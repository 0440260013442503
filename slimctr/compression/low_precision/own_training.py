"""Training inside a method: the loop of every training, with the best epoch, or the start when that was better."""

from typing import Any

from slimctr import quality
from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.start import LowPrecisionSettings
from slimctr.networks import CtrModel
from slimctr.training import EpochRecord, figure, fit, kept_epoch, score
from slimctr.training.trainer import Penalty, RowTrainer


def train_inside(
    model: CtrModel,
    data: CompressionData,
    config: LowPrecisionSettings,
    row_trainer: RowTrainer | None = None,
    penalty: Penalty | None = None,
    may_keep_start: bool = True,
) -> tuple[tuple[EpochRecord, ...], dict[str, Any]]:
    """Train `model` in place as `config` says; return the epochs, and what to keep about them (JSON).

    A model that started from trained weights and that no epoch made better stays as it was, if it may.
    """
    valid, training = data.split("valid"), config.own_training(data.training)
    statistics: dict[str, Any] = {}
    if config.start == "trained":
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        labels, logits = valid.labels.numpy(), score(model, valid)
        statistics["valid_auc_before"] = quality.auc(labels, logits)
        figure_before = figure(
            training.select, statistics["valid_auc_before"], quality.logloss(labels, logits)
        )
    history = fit(
        model,
        training,
        data.training_rows(config.kd_weight),
        valid,
        progress=data.progress,
        row_trainer=row_trainer,
        penalty=penalty,
        kd_weight=config.kd_weight,
    )
    best = kept_epoch(history)
    statistics |= {"kept_epoch": best.epoch, "best_valid_auc": best.valid_auc}
    if config.start == "trained" and may_keep_start and best.figure(training.select) <= figure_before:
        model.load_state_dict(before)
        statistics["kept_epoch"] = 0
    return tuple(history), statistics
