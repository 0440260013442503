"""Reads Avazu's click logs: comma-separated, 24 columns, header optional, `hour` split into three fields."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimctr.clicklogs.delimited import DelimitedFile, TextLayout
from slimctr.clicklogs.layout_guess import guess_format
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import RowChecker, clean_batch
from slimctr.clicklogs.sources import first_line
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema, Field

CELLS = (
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id",
    "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21",
)  # fmt: skip
TIME_FIELDS = ("hour", "weekday", "is_weekend")
FIELDS = (*TIME_FIELDS, *CELLS[3:])
SATURDAY = 5
HOUR = re.compile(r"[0-9]{8}")


class AvazuLog:
    """One Avazu file. `id` is dropped.

    `hour` (YYMMDDHH) becomes `hour` 0-23, `weekday` 0-6 (Monday is 0) and `is_weekend` 0 or 1.
    """

    left_out: tuple[str, ...] = ()

    def __init__(self, path: Path):
        line = first_line(path)
        cells = line.split(",")
        header = cells[0] == CELLS[0]
        if len(cells) != len(CELLS) or (header and tuple(cells) != CELLS):
            raise LogFormatError(
                f"{path} is no Avazu log: line 1 has {len(cells)} comma-separated cells instead "
                f"of the {len(CELLS)} from id, click, hour to C21. {guess_format(line)}".rstrip()
            )
        self._file = DelimitedFile(path, TextLayout(delimiter=",", quoted=False, header=header), list(CELLS))

    @property
    def fraction(self) -> float:
        """Share of the file read by the latest `batches`."""
        return self._file.fraction

    def infer_schema(self) -> FeatureSchema:
        """Return 24 categorical fields: three of time, then C1 to C21 in file order."""
        return FeatureSchema(fields=tuple(Field(name=name, kind="categorical") for name in FIELDS))

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog); a row whose `hour` is no date is refused."""
        names = schema.names
        unknown = sorted(set(names) - set(FIELDS))
        if unknown:
            raise LogFormatError(
                f"an Avazu log has no field {', '.join(unknown)}: its fields are {', '.join(FIELDS)}"
            )
        wanted = ["click", "hour", *(name for name in names if name not in TIME_FIELDS)]
        for raw in self._file.batches(wanted, errors):
            times, bad = split_hours(raw.columns["hour"])
            check = RowChecker(raw.rows)
            check.refuse(
                bad, lambda row, raw=raw: f"hour {raw.columns['hour'][row].as_py()!r} is not YYMMDDHH"
            )
            yield clean_batch(replace(raw, columns={**raw.columns, **times}), "click", schema, errors, check)


def split_hours(hours: pa.Array) -> tuple[dict[str, pa.Array], np.ndarray]:
    """Return the TIME_FIELDS as string columns (B,), and the rows (B,) whose hour is present but no date."""
    encoded = pc.dictionary_encode(hours)
    moments = [_moment(value.decode(errors="replace")) for value in encoded.dictionary.to_pylist()]
    parts = {
        "hour": [None if moment is None else str(moment.hour) for moment in moments],
        "weekday": [None if moment is None else str(moment.weekday()) for moment in moments],
        "is_weekend": [
            None if moment is None else str(int(moment.weekday() >= SATURDAY)) for moment in moments
        ],
    }
    columns = {name: pa.array(values, pa.string()).take(encoded.indices) for name, values in parts.items()}
    bad = pc.and_(pc.is_valid(hours), pc.is_null(columns["hour"])).to_numpy(zero_copy_only=False)
    return columns, bad


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%y%m%d%H") if HOUR.fullmatch(text) else None
    except ValueError:
        return None
