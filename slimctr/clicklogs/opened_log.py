"""Opens the files of a click log: which split they are, which schema they suggest, what is left out of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from slimctr.clicklogs.click_log import open_log
from slimctr.clicklogs.settings import LABELED_FORMATS, PrepareSettings
from slimctr.clicklogs.splits import (
    SPLITS,
    FileSplits,
    OnlyTest,
    RowSplits,
    SplitLog,
    SplitRule,
    find_split_files,
    partitions,
)
from slimctr.clicklogs.synthetic import SyntheticLog, SyntheticSpec
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema


@dataclass(frozen=True)
class OpenedLog:
    """A log, the schema that it suggests, its files below `folder`, and every value of a field where these are known.

    `left_out` are columns that the suggested schema leaves out.
    """

    log: SplitLog
    schema: FeatureSchema
    folder: Path = Path()
    files: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()
    every_value: Callable[[str], Iterator[pa.Array]] | None = None

    def warnings(self, schema: FeatureSchema) -> list[str]:
        """Say which columns `schema` leaves out though a user may expect them."""
        return [
            f"column {name} is left out, because it may be the label too, or is the same in a whole folder: a schema "
            "file (--schema) can make it a field"
            for name in self.left_out
            if name not in schema.names
        ]


def open_source(settings: PrepareSettings) -> OpenedLog:
    """Open the log; its first training file suggests the schema. Raises LogFormatError."""
    if settings.source is not None and settings.source.is_dir():
        return _open_folder(settings, settings.source)
    synthetic = SyntheticLog(settings.synthetic or SyntheticSpec())
    log = open_log(settings.source, settings.log_format, settings.label) if settings.source else synthetic
    is_cut = settings.split is not None or settings.vocabulary_of is None
    split_log = RowSplits(log, settings.split or SplitRule()) if is_cut else OnlyTest(log)
    if settings.source is None:
        every_value = synthetic.every_value if synthetic.spec.all_ids else None
        return OpenedLog(split_log, log.infer_schema(), every_value=every_value)
    return OpenedLog(
        split_log, log.infer_schema(), settings.source.parent, (settings.source,), left_out=log.left_out
    )


def _open_folder(settings: PrepareSettings, folder: Path) -> OpenedLog:
    files = find_split_files(folder, may_lack_splits=settings.vocabulary_of is not None)
    paths = tuple(path for split in SPLITS for path in files[split])
    columns = {path: partitions(path.relative_to(folder)) for path in paths}
    names = tuple(dict.fromkeys(name for values in columns.values() for name in values))
    lacking = next((path for path in paths if set(columns[path]) != set(names)), None)
    if lacking is not None:
        raise LogFormatError(
            f"{lacking} does not lie in a folder for each of {', '.join(names)}, as other files do"
        )
    logs = {
        split: [open_log(path, settings.log_format, settings.label, columns[path]) for path in files[split]]
        for split in SPLITS
    }
    first = next(log for split in SPLITS for log in logs[split])
    left_out = first.left_out if settings.log_format in LABELED_FORMATS else names
    return OpenedLog(FileSplits(logs), first.infer_schema(), folder, paths, left_out)
