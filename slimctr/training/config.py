"""The settings of a training run: defaults, YAML files, packaged presets and `key=value` overrides."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.local_path import remote_fault
from slimctr.errors import ConfigError
from slimctr.networks.model import network_params
from slimctr.networks.params import nearest

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
Select = Literal["logloss", "auc", "ne"]


class TrainConfig(BaseModel):
    """How a model is built and trained. docs/training.md describes every key.

    `params` are the settings of the network; a resolved configuration lists all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: str = "deepfm"
    dim: Annotated[int, Field(ge=1, le=4096)] = 10
    params: dict[str, Any] = {}
    seed: Seed = 1
    epochs: Epochs = 100
    batch_rows: Annotated[int, Field(ge=2, le=2**31 - 1)] = 4096
    learning_rate: Annotated[float, Field(gt=0, le=1e30)] = 1e-3
    schedule: Literal["plateau", "one_cycle"] = "plateau"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.1
    select: Select = "logloss"
    patience: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    bias_start: Literal["click_rate", "zero"] = "click_rate"
    batch_norm_statistics: Literal["estimated", "running"] = "estimated"
    embedding_l2: Annotated[float, Field(ge=0, le=1e3)] = 1e-5
    negative_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    gauc_field: str | None = None

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Merge settings, later layers first, fill in defaults of the run and of its network.

        `params` merge key by key. Raises ConfigError for an unknown key (with the nearest known one) or a
        value that does not fit.
        """
        merged: dict[str, Any] = {}
        for layer in layers:
            for key, value in layer.items():
                if key not in cls.model_fields:
                    raise ConfigError(f"unknown training setting {key!r}{nearest(key, cls.model_fields)}")
                both_nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
                merged[key] = {**merged[key], **value} if both_nested else value
        try:
            config = cls(**merged)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"training setting '{where}': {first['msg']}, got {first['input']!r}") from None
        params = network_params(config.network, config.params)
        return config.model_copy(update={"params": params.model_dump(mode="json")})

    def changed(self, **settings: Any) -> Self:
        """Return a copy with other settings, checked like the original."""
        return self.resolve(self.model_dump(), settings)


def preset_names() -> list[str]:
    """Return the names of the packaged presets."""
    folder = resources.files("slimctr.training") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def read_settings(source: str | Path) -> dict[str, Any]:
    """Return the settings of a YAML file, or of a preset when `source` is the name of one.

    Raises ConfigError when there is neither, or when the file is no YAML mapping.
    """
    text: str | bytes
    if str(source) in preset_names():
        text = (resources.files("slimctr.training") / "presets" / f"{source}.yaml").read_text()
    elif Path(source).is_file():
        text = Path(source).read_bytes()
    elif fault := remote_fault(source):
        raise ConfigError(f"configuration file {fault}")
    else:
        raise ConfigError(
            f"no configuration file or preset '{source}'{nearest(str(source), preset_names())}; "
            f"presets: {', '.join(preset_names())}"
        )
    try:
        settings = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file '{source}' is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"configuration file '{source}' must hold key: value lines")
    return settings


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `key=value` texts into settings; values are YAML, `params.dropout=0.3` sets a key of `params`.

    Raises ConfigError for a text without '=' or a value that is not YAML.
    """
    settings: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{text}' is not key=value; example: --set learning_rate=0.002")
        try:
            parsed = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that no calendar has
            raise ConfigError(f"the value of '{text}' is not YAML; quote it") from None
        outer, dot, inner = key.partition(".")
        if not dot:
            settings[key] = parsed
            continue
        group = settings.setdefault(outer, {})
        if not isinstance(group, dict):
            raise ConfigError(f"'{text}' sets a key of '{outer}', which is {group!r} by another assignment")
        group[inner] = parsed
    return settings
