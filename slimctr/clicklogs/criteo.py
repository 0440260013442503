"""Reads Criteo's display advertising logs: tab-separated, no header, label, 13 counts, 26 hashed strings."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from slimctr.clicklogs.delimited import DelimitedFile, TextLayout
from slimctr.clicklogs.layout_guess import guess_format
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import LABEL_COLUMN, clean_batch
from slimctr.clicklogs.sources import first_line
from slimctr.errors import LogFormatError
from slimctr.features import Bucketing, FeatureSchema, Field

COUNTS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
CELLS = (LABEL_COLUMN, *COUNTS, *CATEGORIES)
LAYOUT = TextLayout(delimiter="\t", quoted=False, header=False)


class CriteoLog:
    """One Criteo file; an empty cell is a missing value."""

    left_out: tuple[str, ...] = ()

    def __init__(self, path: Path):
        line = first_line(path)
        cells = line.count("\t") + 1
        if cells != len(CELLS):
            raise LogFormatError(
                f"{path} is no Criteo log: line 1 has {cells} tab-separated cells instead of {len(CELLS)} "
                f"(label, I1-I13, C1-C26). {guess_format(line)}".rstrip()
            )
        self._file = DelimitedFile(path, LAYOUT, list(CELLS))

    @property
    def fraction(self) -> float:
        """Share of the file read by the latest `batches`."""
        return self._file.fraction

    def infer_schema(self) -> FeatureSchema:
        """Return I1-I13 numeric in log-squared buckets and C1-C26 categorical."""
        counts = [
            Field(name=name, kind="numeric", bucketing=Bucketing(kind="log_squared")) for name in COUNTS
        ]
        return FeatureSchema(fields=(*counts, *(Field(name=name, kind="categorical") for name in CATEGORIES)))

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog)."""
        names = schema.names
        unknown = sorted(set(names) - set(CELLS[1:]))
        if unknown:
            raise LogFormatError(
                f"a Criteo log has no field {', '.join(unknown)}: its fields are I1-I13 and C1-C26"
            )
        for raw in self._file.batches([LABEL_COLUMN, *names], errors):
            yield clean_batch(raw, LABEL_COLUMN, schema, errors)
