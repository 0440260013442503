"""A traffic profile: YAML in, one frozen and checked `Profile` out."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtest.errors import LoadTestError
from model_store.local_path import remote_fault

ID_ENCODINGS = ("v2-json", "v2-binary")
"""Forms of the Open Inference Protocol: they carry encoded ids, all others named values."""

Positive = Annotated[int, Field(ge=1)]
Exponent = Annotated[float, Field(ge=0, le=5)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Replay(_Section):
    """Rows of a prepared data directory (`raw_test.parquet`) or of a JSONL file, drawn evenly."""

    kind: Literal["replay"]


class ZipfValues(_Section):
    """Made-up values `<prefix><rank>` per field; rank r is drawn with probability proportional to r^-exponent."""

    kind: Literal["zipf_values"]
    exponent: Exponent
    fields: Annotated[dict[str, Positive], Field(min_length=1)]
    prefix: str = ""


class ZipfIds(_Section):
    """Encoded ids 1..ids_per_field, id r with probability proportional to r^-exponent.

    Ids are in order of training count, so low ids are the popular ones; ids beyond a table are scored as unknown.
    """

    kind: Literal["zipf_ids"]
    exponent: Exponent
    ids_per_field: Positive


class Profile(_Section):
    """What one kind of traffic looks like; the same profile and seed give the same bytes."""

    name: str
    encoding: Literal["rows", "columns", "slate", "arrow", "v2-json", "v2-binary"]
    # Rows per request -> its share of the requests.
    rows_per_request: Annotated[dict[Positive, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    rows: Annotated[Replay | ZipfValues | ZipfIds, Field(discriminator="kind")]
    # The field whose value is the unit of the experiment; None sends no unit.
    unit_field: str | None = None
    # The fields of a slate's candidates; all others are its context.
    candidate_fields: tuple[str, ...] = ()
    # Send the labels of replayed rows back as outcomes.
    outcomes: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        takes_ids = self.encoding in ID_ENCODINGS
        if takes_ids and self.rows.kind == "zipf_values":
            raise ValueError(f"{self.encoding} takes encoded ids: use rows of the kind zipf_ids or replay")
        if self.rows.kind == "zipf_ids" and not takes_ids:
            raise ValueError("zipf_ids goes with the encodings v2-json and v2-binary, which take encoded ids")
        if (self.encoding == "slate") != bool(self.candidate_fields):
            raise ValueError(
                "candidate_fields (--candidate-fields) goes with the encoding slate, and only with it"
            )
        if self.outcomes and self.rows.kind != "replay":
            raise ValueError("outcomes need the labels of replayed rows")
        if self.unit_field is not None and self.rows.kind == "zipf_ids":
            raise ValueError("unit_field (--unit-field) needs rows with values; zipf_ids draws ids")
        return self


def load_profile(name_or_path: str, changes: Mapping[str, Any] | None = None) -> Profile:
    """Read a profile that ships with the package by its name, or any YAML file by its path.

    `changes` take the place of what the file says.
    """
    shipped = files("loadtest") / "profiles" / f"{name_or_path}.yaml"
    if shipped.is_file():
        text, where = shipped.read_text(encoding="utf-8"), f"profile '{name_or_path}'"
    elif Path(name_or_path).is_file():
        text, where = Path(name_or_path).read_text(encoding="utf-8"), name_or_path
    elif fault := remote_fault(name_or_path):
        raise LoadTestError(f"profile {fault}")
    else:
        names = sorted(
            entry.name.removesuffix(".yaml") for entry in (files("loadtest") / "profiles").iterdir()
        )
        raise LoadTestError(
            f"no profile '{name_or_path}': give the path of a YAML file or one of {', '.join(names)}"
        )
    try:
        document = yaml.safe_load(text)
        return Profile.model_validate({"name": Path(name_or_path).stem, **document, **(changes or {})})
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise LoadTestError(f"{where} is not a profile: {error}") from error
