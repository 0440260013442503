"""Assigns the rows of a log to train, valid and test: by file name, by hashed row number, or by file order."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from slimctr.clicklogs.click_log import ClickLog
from slimctr.clicklogs.mixing import check_seed, hashed_position
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.sources import COMPRESSION
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import FeatureSchema

SPLITS = ("train", "valid", "test")
FILE_MARKS = {
    split: re.compile(rf"(?<![a-z])(?:{words})(?![a-z])", re.IGNORECASE)
    for split, words in {
        "train": "train|training",
        "valid": "valid|validation|val|dev",
        "test": "test",
    }.items()
}
LOG_SUFFIXES = frozenset(
    {".csv", ".tsv", ".txt", ".data", ".log", ".libfm", ".libsvm", ".libffm", ".svm", ".ffm", ".parquet"}
)


NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The name that Hive and Spark give to the folder of rows without a value."""


_PART = re.compile(r"part-|[0-9]{6}_[0-9]+")
"""How Spark and Hive begin the names of their files: part-00000-….parquet, 000000_0."""


class SplitLog(Protocol):
    """A click log whose rows know their split."""

    def batches(
        self, schema: FeatureSchema, errors: ParseErrors, only: str | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield (split, batch) in file order; `only` leaves the other splits out."""

    def measure(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[int]:
        """Make the pass that must precede `batches`, if any, yielding the rows of each batch."""

    @property
    def fraction(self) -> float:
        """Share of the log that the latest pass has read."""

    def rule(self) -> dict[str, Any]:
        """Return how rows were assigned, for `dataset.json`."""


def find_split_files(folder: Path, *, may_lack_splits: bool = False) -> dict[str, list[Path]]:
    """Return the files of each split in a folder, by name; raise LogFormatError unless every split has one.

    A file belongs to the split whose word (train, valid or dev, test) its name contains, and so do all files in a
    folder of such a name (Spark, Hive); shards sort by path. Names that start with '.' or '_' are no logs.
    `may_lack_splits`: one split is enough.
    """
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    sources: dict[str, set[bool]] = {split: set() for split in SPLITS}
    for path in sorted(folder.iterdir()):
        if _is_hidden(path.name) or not (path.is_dir() or _plain(path).suffix.lower() in LOG_SUFFIXES):
            continue
        name = path.name if path.is_dir() else _plain(path).stem
        splits = _splits_in(name)
        if len(splits) > 1:
            raise LogFormatError(f"{path} names two splits ({', '.join(splits)}): rename it")
        for split in splits:
            found[split] += _part_files(path) if path.is_dir() else [path]
            sources[split].add(path.is_dir())
    mixed = [split for split in SPLITS if len(sources[split]) > 1]
    if mixed:
        raise LogFormatError(
            f"{folder} has both a file and a folder for {', '.join(mixed)}: keep one of them"
        )
    _refuse_copies([path for paths in found.values() for path in paths])
    absent = [split for split in SPLITS if not found[split]]
    if absent and not (may_lack_splits and len(absent) < len(SPLITS)):
        raise LogFormatError(
            f"{folder} has no file for {', '.join(absent)}: names must contain the word train, "
            f"valid (or dev) or test and end in one of {', '.join(sorted(LOG_SUFFIXES))} (.zst, .gz, .bz2 may follow), "
            "or be folders of such files. To split one file, name the file itself as SOURCE"
        )
    return found


def is_in_parts(path: Path) -> bool:
    """Tell whether a path is a folder that a job wrote as one log: nothing but parts, partitions and markers."""
    if not path.is_dir():
        return False
    names = [entry.name for entry in path.iterdir() if not _is_hidden(entry.name)]
    return bool(names) and all(_PART.match(name) or ("=" in name and not _splits_in(name)) for name in names)


def part_files(folder: Path) -> list[Path]:
    """Return the files of one log in parts, by path. Raises LogFormatError for none, and for a file of another kind."""
    paths = _part_files(folder)
    _refuse_copies(paths)
    if not paths:
        raise LogFormatError(f"{folder} holds no part of a log that is not empty")
    return paths


def partitions(path: Path) -> dict[str, str | None]:
    """Return what the folders of a path, relative to the folder of a log, say of all its rows: {"dt": "2024-01-31"}."""
    values: dict[str, str | None] = {}
    for part in path.parts[:-1]:
        name, equals, value = part.partition("=")
        if equals:
            values[unquote(name)] = None if value in ("", NO_PARTITION) else unquote(value)
    return values


def _splits_in(name: str) -> list[str]:
    return [split for split, mark in FILE_MARKS.items() if mark.search(name)]


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _plain(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in COMPRESSION else path


def _part_files(folder: Path) -> list[Path]:
    """Return the files below the folder of a split that hold anything."""
    paths = []
    for path in sorted(folder.rglob("*")):
        if any(map(_is_hidden, path.relative_to(folder).parts)) or path.is_dir():
            continue
        if _plain(path).suffix.lower() not in LOG_SUFFIXES | {""}:
            raise LogFormatError(
                f"{path} lies among the files of a split, but a log ends in one of {', '.join(sorted(LOG_SUFFIXES))} "
                "(.zst, .gz, .bz2 may follow): move it away"
            )
        if path.stat().st_size:
            paths.append(path)
    return paths


def _refuse_copies(paths: list[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        plain = _plain(path)
        if plain in seen:
            raise LogFormatError(
                f"{plain} is there twice, compressed and not or compressed twice: keep one of them"
            )
        seen.add(plain)


class FileSplits:
    """Splits that are files of their own."""

    def __init__(self, logs: dict[str, list[ClickLog]]):
        self._logs = logs
        self._done = 0
        self._current: ClickLog | None = None
        self._total = 1

    def measure(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[int]:
        """Read nothing: the files say it all (see SplitLog)."""
        return iter(())

    @property
    def fraction(self) -> float:
        """Share of the files read, each file counting the same."""
        current = self._current.fraction if self._current else 0.0
        return (self._done + current) / self._total

    def batches(
        self, schema: FeatureSchema, errors: ParseErrors, only: str | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield (split, batch), split after split (see SplitLog)."""
        chosen = [(split, log) for split in SPLITS for log in self._logs[split] if only in (None, split)]
        self._total = len(chosen)
        for position, (split, log) in enumerate(chosen):
            self._done, self._current = position, log
            for batch in log.batches(schema, errors):
                yield split, batch

    def rule(self) -> dict[str, Any]:
        """Return the rule's JSON form."""
        return {"by": "files"}


@dataclass(frozen=True)
class SplitRule:
    """How one log is cut: `shares` of train, valid, test; by `hash` of row number and seed, or `time` (file order)."""

    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    order: Literal["hash", "time"] = "hash"
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not (all(share > 0 for share in self.shares) and abs(sum(self.shares) - 1) <= 1e-9):
            raise ConfigError(f"split shares {self.shares} must be three positive numbers whose sum is 1")


class OnlyTest:
    """A log all of whose rows are the test split."""

    def __init__(self, log: ClickLog):
        self._log = log

    def measure(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[int]:
        """Read nothing (see SplitLog)."""
        return iter(())

    @property
    def fraction(self) -> float:
        """Share of the log read."""
        return self._log.fraction

    def batches(
        self, schema: FeatureSchema, errors: ParseErrors, only: str | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield ("test", batch) in file order (see SplitLog)."""
        if only in (None, "test"):
            for batch in self._log.batches(schema, errors):
                yield "test", batch

    def rule(self) -> dict[str, Any]:
        """Return the rule's JSON form."""
        return {"by": "nothing: all rows are test"}


class RowSplits:
    """Splits cut out of one log by row number; rows that cannot be read do not count."""

    def __init__(self, log: ClickLog, rule: SplitRule):
        self._log = log
        self._rule = rule
        self._rows: int | None = None

    def measure(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[int]:
        """Count the rows when the cut is by file order (see SplitLog)."""
        if self._rule.order == "time":
            rows = 0
            for batch in self._log.batches(schema, errors):
                rows += batch.num_rows
                yield batch.num_rows
            self._rows = rows

    @property
    def fraction(self) -> float:
        """Share of the log read."""
        return self._log.fraction

    def batches(
        self, schema: FeatureSchema, errors: ParseErrors, only: str | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield (split, batch) in file order (see SplitLog)."""
        start = 0
        for batch in self._log.batches(schema, errors):
            numbers = np.arange(start, start + batch.num_rows, dtype=np.uint64)
            start += batch.num_rows
            positions = np.array(self._rule.shares).cumsum()[:2]
            place = hashed_position(numbers, self._rule.seed) if self._rows is None else numbers / self._rows
            assigned = np.searchsorted(positions, place, side="right")
            for number, split in enumerate(SPLITS):
                mask = assigned == number
                if only in (None, split) and mask.any():
                    yield split, batch if mask.all() else batch.filter(pa.array(mask))

    def rule(self) -> dict[str, Any]:
        """Return the rule's JSON form."""
        settings: dict[str, Any] = {"by": self._rule.order, "shares": list(self._rule.shares)}
        return settings | ({"seed": self._rule.seed} if self._rule.order == "hash" else {})
