"""The error tree of the library. A message says what is wrong, with which object, and what to do.

SlimctrError
├── ConfigError            a run configuration, method setting or schema file that cannot be used
├── FeatureError           a request or log value that does not fit the feature schema
│   ├── UnknownField
│   ├── MissingField
│   └── BadValue
├── ArrowError             bytes that are not an Arrow stream, or one of a kind that is not read
├── LogFormatError         a click log that cannot be read
├── DownloadError          a public data set that cannot be fetched (slimctr/clicklogs/download.py)
├── CompressionError       a method that does not apply to this model
├── ExportError            a model that cannot be exported, or whose artifact differs from it
└── EngineError            an artifact that this engine cannot serve
    └── ParityError        golden rows do not give their stored scores
"""

from dataclasses import dataclass
from typing import Any


class SlimctrError(Exception):
    """Base of every expected error of the library."""


class ConfigError(SlimctrError):
    """A run configuration, method setting or schema file that cannot be used."""


@dataclass
class FeatureError(SlimctrError):
    """A value that does not fit the schema: `field`, `row` (None when it concerns no single row), `value`."""

    field: str
    detail: str
    row: int | None = None
    value: Any = None

    def __str__(self) -> str:
        where = f"field '{self.field}'" + (f", row {self.row}" if self.row is not None else "")
        return f"{where}: {self.detail}"


class UnknownField(FeatureError):
    """A field that the schema does not have."""


class MissingField(FeatureError):
    """A required field without a value."""


class BadValue(FeatureError):
    """A value of the wrong type, or a number that is not finite."""


class ArrowError(SlimctrError):
    """Bytes that are not an Arrow stream, or a stream of a kind that is not read."""


class LogFormatError(SlimctrError):
    """A click log that cannot be read."""


class CompressionError(SlimctrError):
    """A compression method that does not apply to this model."""


class ExportError(SlimctrError):
    """A model that cannot be exported, or whose artifact does not score like it."""


class EngineError(SlimctrError):
    """An artifact that this engine cannot serve."""


class ParityError(EngineError):
    """Golden rows that do not give their stored scores on this machine."""
