"""Counts the lines of a click log that could not be read and keeps the first few of them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimctr.errors import LogFormatError

KEPT_EXAMPLES = 20


@dataclass(frozen=True, order=True)
class ParseError:
    """One refused line: `line` counts from 1, header lines included (rows for Parquet)."""

    file: str
    line: int
    detail: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.detail}"


class ParseErrors:
    """The refused lines of one pass over a log; with `strict` the first one raises LogFormatError.

    Files are named by their path below `folder`.
    """

    def __init__(self, strict: bool = False, folder: Path | None = None):
        self.strict = strict
        self._folder = folder
        self.count = 0
        self.examples: list[ParseError] = []

    def add(self, path: Path, line: int, detail: str) -> None:
        """Count a refused line; keep it when it is among the first."""
        name = path.name if self._folder is None else str(path.relative_to(self._folder))
        error = ParseError(name, line, detail)
        if self.strict:
            raise LogFormatError(f"{error} (reading stopped because of --strict)")
        self.count += 1
        if len(self.examples) < KEPT_EXAMPLES:
            self.examples.append(error)

    def report(self) -> dict[str, Any]:
        """Return the JSON form: the count and the kept examples."""
        return {"count": self.count, "examples": [asdict(example) for example in self.examples]}
