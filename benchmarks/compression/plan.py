"""What is measured: data sets, originals and their compressed variants, read from a YAML plan."""

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from slimctr.compression.recipes import chain
from slimctr.training import TrainConfig, read_settings

FOLDER = Path(__file__).parent
ORIGINAL = "original"
YOUNGER = {"select": "auc", "bias_start": "zero", "batch_norm_statistics": "running"}
"""Settings of training that are younger than the first records, at the values by which all originals are trained.
Keys of records leave them out."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_Record):
    """A log: a folder under the data root, or the synthetic generator when there is none."""

    folder: str | None = None
    log_format: str = "csv"
    rows: int = 0
    ids: int | None = None
    seed: int = 0
    min_count: int | None = None


class Variant(_Record):
    """One way to compress an original: a method, chain or recipe with settings.

    `training` changes how the original is trained; without a method that original is the variant.
    """

    method: str | None = None
    settings: dict[str, Any] = {}
    training: dict[str, Any] = {}
    networks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


class Study(_Record):
    """Variants that answer one question, on one data set, over networks and seeds.

    Differences are taken to the variant `reference`. `speed`: time the engine too. `finding` is what the figures
    say, in words.
    """

    title: str
    question: str
    data: str
    networks: tuple[str, ...]
    seeds: tuple[int, ...]
    preset: str | None = None
    training: dict[str, Any] = {}
    reference: str = ORIGINAL
    speed: bool = False
    finding: str = ""
    variants: dict[str, Variant] = {}

    @model_validator(mode="after")
    def _reference_exists(self) -> Self:
        if self.reference != ORIGINAL and self.reference not in self.variants:
            raise ValueError(f"study '{self.title}' has no variant '{self.reference}'")
        return self


class Plan(_Record):
    """A whole plan."""

    data: dict[str, DataSource]
    studies: dict[str, Study]

    @classmethod
    def read(cls, name: str) -> Self:
        """Read a plan of this folder by its name."""
        return cls.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))

    def tasks(self, studies: Collection[str] = (), only: str = "") -> Iterator["Task"]:
        """Yield every distinct task once, each original before its variants.

        `studies`: of these alone; `only`: variants whose names match this expression, and the originals.
        """
        seen = set()
        for name, study in self.studies.items():
            if studies and name not in studies:
                continue
            for task in study_tasks(study):
                is_wanted = task.variant == ORIGINAL or re.search(only, task.variant)
                if is_wanted and task.key not in seen:
                    seen.add(task.key)
                    yield task


@dataclass(frozen=True)
class Task:
    """One model to measure: an original, or a chain of methods applied to one."""

    data: str
    config: TrainConfig
    variant: str
    method: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """Digest of everything that decides the result; variant names do not."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """What the key digests: defaults that a method resolves to are part of it."""
        steps = [] if self.method is None else chain(self.method, dict(self.settings))
        training = self.config.model_dump(mode="json")
        return {
            "data": self.data,
            "training": {name: v for name, v in training.items() if (name, v) not in YOUNGER.items()},
            "chain": [[step.method.name, step.config.model_dump(mode="json")] for step in steps],
        }

    @property
    def original(self) -> "Task":
        """The task of the original that this one compresses."""
        return Task(self.data, self.config, ORIGINAL)


def study_tasks(study: Study) -> Iterator[Task]:
    """Yield the tasks of a study: per network and seed the original, then its variants."""
    for network in study.networks:
        for seed in study.seeds:
            yield study_task(study, ORIGINAL, network, seed)
            for name, variant in study.variants.items():
                if network in (variant.networks or study.networks) and seed in (variant.seeds or study.seeds):
                    yield study_task(study, name, network, seed)


def study_task(study: Study, name: str, network: str, seed: int) -> Task:
    """The task of one variant (or `original`) of a study."""
    variant = study.variants.get(name, Variant())
    preset = read_settings(study.preset) if study.preset else {}
    config = TrainConfig.resolve(
        YOUNGER, preset, study.training, variant.training, {"network": network, "seed": seed}
    )
    return Task(study.data, config, name, variant.method, tuple(variant.settings.items()))
