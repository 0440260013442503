"""Where the rows of the traffic come from: replayed test rows or Zipf-distributed values and ids."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from loadtest.errors import LoadTestError
from loadtest.profile import ID_ENCODINGS, Profile, Replay, ZipfValues
from slimctr.errors import SlimctrError

if TYPE_CHECKING:
    from slimctr.features import Encoder

Row = dict[str, Any]
# `slimctr data prepare` keeps so many test rows with their values.
REPLAYED_ROWS = 50_000
LABEL = "label"


@dataclass(frozen=True)
class Rows:
    """Named values of some rows, and their clicks (0 or 1) where they are known."""

    values: list[Row]
    clicks: list[int] | None


class RowSource(Protocol):
    """Draws rows; `encoder` turns them into row ids, where they come from a prepared directory."""

    encoder: "Encoder | None"

    def draw(self, count: int, random: np.random.Generator) -> Rows:
        """Return `count` rows."""
        ...


class ReplaySource:
    """Rows that were logged, drawn evenly with replacement."""

    def __init__(
        self, rows: list[Row], clicks: Sequence[int] | None, encoder: "Encoder | None" = None
    ) -> None:
        self.encoder = encoder
        self._rows = rows
        self._clicks = clicks

    def draw(self, count: int, random: np.random.Generator) -> Rows:
        """Return `count` rows."""
        picked = random.integers(0, len(self._rows), count).tolist()
        clicks = [int(self._clicks[index]) for index in picked] if self._clicks is not None else None
        return Rows([self._rows[index] for index in picked], clicks)


class ZipfSource:
    """Made-up values whose popularity follows Zipf's law."""

    encoder = None

    def __init__(self, traffic: ZipfValues) -> None:
        self._prefix = traffic.prefix
        self._ranks = {name: Zipf(count, traffic.exponent) for name, count in traffic.fields.items()}

    def draw(self, count: int, random: np.random.Generator) -> Rows:
        """Return `count` rows."""
        columns = {name: zipf.draw(count, random).tolist() for name, zipf in self._ranks.items()}
        rows = [{name: f"{self._prefix}{ranks[i]}" for name, ranks in columns.items()} for i in range(count)]
        return Rows(rows, None)


class Zipf:
    """Ranks 1..size, rank r with probability proportional to r^-exponent."""

    def __init__(self, size: int, exponent: float) -> None:
        weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
        self._cumulative = np.cumsum(weights) / weights.sum()

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """Return int64 (count,)."""
        return (
            np.minimum(np.searchsorted(self._cumulative, random.random(count)), len(self._cumulative) - 1) + 1
        )


def open_source(profile: Profile, data: Path | None) -> RowSource:
    """Return the source of named rows that `profile` asks for; `data` is what a replay reads."""
    if isinstance(profile.rows, ZipfValues):
        _check_fields(profile, list(profile.rows.fields), set(), "of the profile")
        return ZipfSource(profile.rows)
    if not isinstance(profile.rows, Replay):
        raise LoadTestError(f"profile '{profile.name}' sends encoded ids, not named rows")
    if data is None:
        raise LoadTestError(
            f"profile '{profile.name}' replays rows: give --data DIR (prepared) or FILE.jsonl"
        )
    if not data.is_file():
        return _prepared_source(profile, data)
    if profile.encoding in ID_ENCODINGS:
        raise LoadTestError(
            f"profile '{profile.name}' sends encoded ids and {data} has none: give a directory that "
            "slimctr data prepare wrote"
        )
    return _jsonl_source(profile, data)


def _prepared_source(profile: Profile, data: Path) -> RowSource:
    """Return the test rows of a prepared directory as a client sends them: numbers, texts, lists, None for missing."""
    try:
        from slimctr.clicklogs import Dataset
    except ImportError as error:
        raise LoadTestError(
            f"reading {data} needs pyarrow: pip install pyarrow, or give a JSONL file"
        ) from error
    try:
        dataset = Dataset(data)
        rows, clicks = dataset.raw_test(REPLAYED_ROWS)
        encoder = dataset.encoder()
    except SlimctrError as error:
        raise LoadTestError(f"--data {data}: {error}; or give a JSONL file") from error
    if not rows:
        raise LoadTestError(f"{data} has no test rows to replay: prepare it with a test split")
    fields = dataset.schema.fields
    lists = {field.name for field in fields if field.multivalued}
    _check_fields(profile, [field.name for field in fields], lists, f"in {data}")
    return ReplaySource(rows, clicks.tolist(), encoder)


def _jsonl_source(profile: Profile, path: Path) -> RowSource:
    rows = read_jsonl(path)
    if not rows:
        raise LoadTestError(f"{path} has no rows to replay")
    if profile.outcomes and profile.unit_field is not None:
        for number, row in enumerate(rows, 1):
            if row.get(LABEL) not in (0, 1):
                raise LoadTestError(
                    f"profile '{profile.name}' sends outcomes, but row {number} of {path} has no '{LABEL}' of "
                    f"0 or 1: add it to every row, or send no unit and no outcomes with --unit-field ''"
                )
    clicks = [int(row[LABEL]) for row in rows] if all(row.get(LABEL) in (0, 1) for row in rows) else None
    values = [{name: value for name, value in row.items() if name != LABEL} for row in rows]
    names = list(dict.fromkeys(name for row in values for name in row))
    lists = {name for row in values for name, value in row.items() if isinstance(value, list)}
    _check_fields(profile, names, lists, f"in {path}")
    return ReplaySource(values, clicks)


def _check_fields(profile: Profile, names: list[str], lists: set[str], where: str) -> None:
    """Raise LoadTestError for a unit or candidate field that rows cannot have."""
    have = f"the fields {where} are {', '.join(names)}"
    unit = profile.unit_field
    if unit is not None and unit not in names:
        raise LoadTestError(
            f"there is no field '{unit}' for the unit_id; {have}: name one with --unit-field, or send no unit "
            "and no outcomes with --unit-field ''"
        )
    if unit in lists:
        raise LoadTestError(
            f"field '{unit}' is multi-valued and a unit_id is one value: name another with --unit-field"
        )
    unknown = [name for name in profile.candidate_fields if name not in names]
    if unknown:
        raise LoadTestError(
            f"there is no field '{unknown[0]}' for the candidates of a slate; {have}: name those that differ "
            "between candidates with --candidate-fields A,B"
        )


def read_jsonl(path: Path) -> list[Row]:
    """Read a file with one JSON object per line; raise LoadTestError for another line."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadTestError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise LoadTestError(
                f"{path}, line {number}: no JSON ({error}): write one object per line"
            ) from error
        if not isinstance(row, dict):
            raise LoadTestError(f"{path}, line {number}: write one JSON object per line, not {line[:60]}")
        rows.append(row)
    return rows
