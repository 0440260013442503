"""The feature schema: which fields a model reads and how their raw values become keys."""

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from slimctr.errors import ConfigError

# Fields become Parquet columns, tensor names and `<field>.values` on the wire: no dot, and none of these.
RESERVED_NAMES = frozenset({"label", "ids", "dense", "sparse_ids", "logit", "logits", "pctr", "scores"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_MAX_HASH_ROWS = 2**31 - 2
_SHOWN = 5


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Bucketing(_Record):
    """How a number becomes a bucket number; see `slimctr.features.numeric`.

    `log_squared`: v > 2 gives floor(ln(v)²), else int(v). `edges`: the count of edges ≤ v.
    """

    kind: Literal["log_squared", "edges"]
    edges: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _edges_fit_the_kind(self) -> Self:
        if self.kind == "log_squared" and self.edges:
            raise ValueError("bucketing 'log_squared' takes no edges")
        if self.kind == "edges":
            if not self.edges:
                raise ValueError("bucketing 'edges' needs at least one edge")
            if any(not left < right for left, right in zip(self.edges, self.edges[1:], strict=False)):
                raise ValueError("bucketing edges must increase strictly")
        return self


class Field(_Record):
    """One slot of the model's input.

    `hash_rows`: hash every value into this many rows instead of listing values. `min_count`: a value that
    occurs less often in training gets no row. `required`: a missing value is refused, not scored as missing.
    """

    name: str
    kind: Literal["categorical", "numeric"]
    multivalued: bool = False
    pooling: Literal["mean", "sum"] = "mean"
    hash_rows: Annotated[int, pydantic.Field(ge=1, le=_MAX_HASH_ROWS)] | None = None
    bucketing: Bucketing | None = None
    min_count: Annotated[int, pydantic.Field(ge=1)] = 1
    required: bool = False

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError("a name is a letter, then at most 63 letters, digits, '_' or '-'")
        if self.name.lower() in RESERVED_NAMES:
            raise ValueError(
                f"the name is reserved; rename the column (reserved: {', '.join(sorted(RESERVED_NAMES))})"
            )
        if self.kind == "numeric":
            if self.bucketing is None:
                raise ValueError('a numeric field needs bucketing, for example {"kind": "log_squared"}')
            if self.multivalued or self.hash_rows is not None:
                raise ValueError("a numeric field is neither multi-valued nor hashed")
        elif self.bucketing is not None:
            raise ValueError("only a numeric field has bucketing")
        if self.hash_rows is not None and self.min_count > 1:
            raise ValueError("a hashed field lists no values, so it has no min_count")
        return self


class FeatureSchema(_Record):
    """The fields of a model in table order. `ids` columns follow `single`, bags follow `multi`."""

    fields: tuple[Field, ...]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        if not self.fields:
            raise ValueError("a schema needs at least one field")
        seen: set[str] = set()
        for field in self.fields:
            if field.name in seen:
                raise ValueError(f"field '{field.name}' is declared twice")
            seen.add(field.name)
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Field names in schema order."""
        return tuple(field.name for field in self.fields)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of each field by name."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def single(self) -> tuple[int, ...]:
        """Positions of the single-valued fields: the columns of `EncodedBatch.ids`."""
        return tuple(i for i, field in enumerate(self.fields) if not field.multivalued)

    @cached_property
    def multi(self) -> tuple[int, ...]:
        """Positions of the multi-valued fields: the order of `EncodedBatch.bags`."""
        return tuple(i for i, field in enumerate(self.fields) if field.multivalued)

    @classmethod
    def parse(cls, document: Any, source: str = "schema") -> Self:
        """Check a JSON-like document; raise ConfigError naming `source` and each field that is wrong."""
        try:
            return cls.model_validate(document)
        except pydantic.ValidationError as error:
            problems = [_problem(document, detail) for detail in error.errors()]
            more = f"; and {len(problems) - _SHOWN} problems more" if len(problems) > _SHOWN else ""
            raise ConfigError(f"{source}: {'; '.join(problems[:_SHOWN])}{more}") from None

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a `.json`, `.yaml` or `.yml` file. Raises ConfigError when it cannot be read or is wrong."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"schema file {path}: {error}") from error
        return cls.parse(document, f"schema file {path}")

    def save(self, path: Path | str) -> None:
        """Write the schema as YAML (`.yaml`, `.yml`) or JSON (any other name); defaults are left out."""
        path = Path(path)
        document = self.model_dump(mode="json", exclude_defaults=True)
        if path.suffix in (".yaml", ".yml"):
            text = yaml.safe_dump(document, sort_keys=False)
        else:
            text = json.dumps(document, indent=2) + "\n"
        path.write_text(text, encoding="utf-8")


def _problem(document: Any, detail: Any) -> str:
    """One pydantic complaint in words, led by the name of the field it concerns."""
    location = list(detail["loc"])
    where = "schema"
    if len(location) > 1 and location[0] == "fields" and isinstance(location[1], int):
        position = location[1]
        entry = document["fields"][position]
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"field '{name}'" if name is not None else f"field number {position}"
        location = location[2:]
    setting = ".".join(str(part) for part in location)
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {setting}: {message}" if setting else f"{where}: {message}"
