"""What a method may read: the data of a run, checked and loaded once, its counts, and how it was trained."""

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from slimctr.clicklogs import Dataset
from slimctr.errors import ConfigError
from slimctr.networks import CtrModel
from slimctr.training import Run, Silent, TensorSplit, TrainConfig, TrainingProgress, score


def data_of_run(run: Run, path: Path | None = None) -> Dataset:
    """Open the encoded data set of `run` at `path`, or where its lineage says.

    Raises ConfigError when it is another data set than the one that the run was trained on.
    """
    dataset = Dataset(path or Path(run.lineage.data))
    digests = {entry["file"]: entry["sha256"] for entry in dataset.info["files"]}
    if digests != run.lineage.data_sha256:
        raise ConfigError(f"data set '{dataset.path}' is not the one of run '{run.path}'")
    return dataset


class CompressionData:
    """The splits of a data set as tensors and its training counts, each read when first needed.

    `training` is the configuration of the run, for methods that train; they tell `progress`. `teacher` is the model
    that they may imitate.
    """

    def __init__(
        self,
        dataset: Dataset,
        training: TrainConfig,
        progress: TrainingProgress | None = None,
        teacher: CtrModel | None = None,
    ) -> None:
        self.dataset = dataset
        self.training = training
        self.progress = progress or Silent()
        self.teacher = teacher
        self.split = cache(self._split)

    def _split(self, name: str) -> TensorSplit:
        return TensorSplit.of(self.dataset.load(name))

    def training_rows(self, kd_weight: float) -> TensorSplit:
        """Return the training split, with the logits of the teacher when it is to be imitated."""
        return self._taught if kd_weight else self.split("train")

    @cached_property
    def _taught(self) -> TensorSplit:
        if self.teacher is None:
            raise ValueError("kd_weight needs a teacher")
        train = self.split("train")
        return replace(train, teacher=torch.from_numpy(score(self.teacher, train)))

    @cached_property
    def counts(self) -> list[NDArray[np.int64]]:
        """Training occurrences of every row (N_f,), one array per field in schema order."""
        return [self.dataset.counts(name) for name in self.dataset.schema.names]
