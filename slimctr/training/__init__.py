"""Training of click models: configuration, loop, run directory, evaluation."""

from slimctr.training.batch_norm import estimate_batch_norm
from slimctr.training.batches import Batch, TensorSplit
from slimctr.training.checkpoint import EpochRecord, figure, kept_epoch
from slimctr.training.config import TrainConfig, parse_assignments, preset_names, read_settings
from slimctr.training.evaluation import Scores, evaluate, measure, score
from slimctr.training.job import initial_model, set_start_bias, train
from slimctr.training.progress import RichProgress, Silent, TrainingProgress
from slimctr.training.run import Lineage, MethodStep, Run, git_revision, load_run, save_run
from slimctr.training.trainer import fit

__all__ = [
    "Batch",
    "EpochRecord",
    "Lineage",
    "MethodStep",
    "RichProgress",
    "Run",
    "Scores",
    "Silent",
    "TensorSplit",
    "TrainConfig",
    "TrainingProgress",
    "estimate_batch_norm",
    "evaluate",
    "figure",
    "fit",
    "git_revision",
    "initial_model",
    "kept_epoch",
    "load_run",
    "measure",
    "parse_assignments",
    "preset_names",
    "read_settings",
    "save_run",
    "score",
    "set_start_bias",
    "train",
]
