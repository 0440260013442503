"""The experiment file: YAML in, one frozen and checked `ExperimentSpec` out."""

import math
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model_store.names import LABEL, VERSION, ExperimentName, ModelName
from slimctr.errors import ConfigError

# A row stays undecided this long after its click window, so that clicks under way can still arrive.
MATURITY_SLACK_S = 900.0
# The variant name of requests that ask for a version themselves.
PINNED = "pinned"

Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VariantSpec(_Section):
    """One option of the test: its name, the version (number or label) that serves it, its share of units."""

    name: ExperimentName
    version: int | str
    weight: Share

    @field_validator("version", mode="before")
    @classmethod
    def _number_or_label(cls, value: Any) -> int | str:
        text = str(value)
        if isinstance(value, int | str) and VERSION.fits(text):
            return int(text)
        if isinstance(value, str) and LABEL.fits(text):
            return value
        raise ValueError(
            f"{value!r} is neither a version (1, 2, ...) nor a label: use {LABEL.meaning}; "
            "write a label in quotes that YAML reads as something else"
        )

    @field_validator("name")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if name == PINNED:
            raise ValueError(
                f"'{PINNED}' names requests that ask for a version themselves; take another name"
            )
        return name


class ShadowSpec(_Section):
    """Which variant also scores a share of the default's requests, off the response path."""

    variant: ExperimentName
    percent: Annotated[float, Field(gt=0, le=100)]


class ExperimentSpec(_Section):
    """A weighted split of a model's units over variants, with an optional shadow; times are seconds."""

    key: ExperimentName
    model: ModelName
    variants: Annotated[tuple[VariantSpec, ...], Field(min_length=1, max_length=16)]
    default: ExperimentName
    seed: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,256}$")]
    coverage: Share = 1.0
    shadow: ShadowSpec | None = None
    window_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 1_800.0
    maturity_s: Annotated[float, Field(gt=0, le=60 * 86_400)]

    @model_validator(mode="before")
    @classmethod
    def _fill_what_follows_from_other_keys(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        filled = dict(document)
        filled.setdefault("seed", document.get("key"))
        window_s = document.get("window_s", cls.model_fields["window_s"].default)
        if isinstance(window_s, int | float):
            filled.setdefault("maturity_s", window_s + MATURITY_SLACK_S)
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [variant.name for variant in self.variants]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"variants: '{name}' is there {names.count(name)} times; names must differ")
        if self.default not in names:
            raise ValueError(f"default: '{self.default}' is no variant; variants are {', '.join(names)}")
        total = sum(variant.weight for variant in self.variants)
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"variants: the weights add up to {total:g}; they must add up to 1")
        if self.shadow is not None and self.shadow.variant not in names:
            raise ValueError(
                f"shadow.variant: '{self.shadow.variant}' is no variant; variants are {', '.join(names)}"
            )
        if self.shadow is not None and self.shadow.variant == self.default:
            raise ValueError(f"shadow.variant: '{self.default}' is the default, which it is compared with")
        if self.maturity_s < self.window_s:
            raise ValueError(
                f"maturity_s: {self.maturity_s:g} is below window_s ({self.window_s:g}); "
                "a row cannot be counted as not clicked while its clicks still count"
            )
        return self

    def variant(self, name: str) -> VariantSpec:
        """Return the variant called `name`, which must exist."""
        return next(variant for variant in self.variants if variant.name == name)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which plain YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_experiment(path: Path) -> ExperimentSpec:
    """Read an experiment file; raises ConfigError that names the file and every wrong key."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"experiment file {path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"experiment file {path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"experiment file {path}: must be one mapping with key, model, variants and default"
        )
    try:
        return ExperimentSpec.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"experiment file {path}: {_complaints(error)}") from error


def _complaints(error: ValidationError) -> str:
    lines = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)
