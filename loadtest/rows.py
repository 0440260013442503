"""Where the rows of the traffic come from: replayed test rows or Zipf-distributed values and ids."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from loadtest.errors import LoadTestError
from loadtest.profile import Profile, Replay, ZipfValues

Row = dict[str, Any]
REPLAY_FILE = "raw_test.parquet"
LABEL = "label"


@dataclass(frozen=True)
class Rows:
    """Named values of some rows, and their clicks (0 or 1) where they are known."""

    values: list[Row]
    clicks: list[int] | None


class RowSource(Protocol):
    """Draws rows."""

    def draw(self, count: int, random: np.random.Generator) -> Rows:
        """Return `count` rows."""
        ...


class ReplaySource:
    """Rows that were logged, drawn evenly with replacement."""

    def __init__(self, rows: list[Row]) -> None:
        """Take rows whose `label`, when all have one, is their click."""
        self._rows = [{name: value for name, value in row.items() if name != LABEL} for row in rows]
        self._clicks = [int(row[LABEL]) for row in rows] if all(LABEL in row for row in rows) else None

    def draw(self, count: int, random: np.random.Generator) -> Rows:
        """Return `count` rows."""
        picked = random.integers(0, len(self._rows), count).tolist()
        clicks = [self._clicks[index] for index in picked] if self._clicks is not None else None
        return Rows([self._rows[index] for index in picked], clicks)


class ZipfSource:
    """Made-up values whose popularity follows Zipf's law."""

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
        return ZipfSource(profile.rows)
    if not isinstance(profile.rows, Replay):
        raise LoadTestError(f"profile '{profile.name}' sends encoded ids, not named rows")
    if data is None:
        raise LoadTestError(
            f"profile '{profile.name}' replays rows: give --data DIR (prepared) or FILE.jsonl"
        )
    rows = read_rows(data)
    if not rows:
        raise LoadTestError(f"{data} has no rows to replay")
    if profile.outcomes and LABEL not in rows[0]:
        raise LoadTestError(
            f"profile '{profile.name}' sends outcomes, but the rows of {data} have no '{LABEL}'"
        )
    missing = {*profile.candidate_fields, *([profile.unit_field] if profile.unit_field else [])} - set(
        rows[0]
    )
    if missing:
        raise LoadTestError(f"the rows of {data} lack {', '.join(sorted(missing))}, which the profile names")
    return ReplaySource(rows)


def read_rows(data: Path) -> list[Row]:
    """Read `raw_test.parquet` of a prepared data directory, or a file with one JSON object per line."""
    if data.is_file():
        return [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines() if line.strip()]
    path = data / REPLAY_FILE
    if not path.is_file():
        raise LoadTestError(
            f"{data} is no JSONL file and has no {REPLAY_FILE}: prepare it with slimctr data prepare"
        )
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise LoadTestError(
            f"reading {path} needs pyarrow: pip install pyarrow, or give a JSONL file"
        ) from error
    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows
