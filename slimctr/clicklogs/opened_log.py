"""Opens the files of a click log: which split they are, which schema they suggest, what is left out of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from slimctr.clicklogs.click_log import ClickLog, LogInParts, open_log
from slimctr.clicklogs.settings import LABELED_FORMATS, PrepareSettings
from slimctr.clicklogs.splits import (
    SPLITS,
    FileSplits,
    OnlyTest,
    RowSplits,
    SplitLog,
    SplitRule,
    find_split_files,
    is_in_parts,
    part_files,
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
            f"column {name} is left out, because it may be the label too, is the same in a whole folder, or numbers "
            "the rows of a data frame: a schema file (--schema) can make it a field"
            for name in self.left_out
            if name not in schema.names
        ]


def open_source(settings: PrepareSettings) -> OpenedLog:
    """Open the log; its first training file suggests the schema. Raises LogFormatError."""
    source = settings.source
    if source is None:
        synthetic = SyntheticLog(settings.synthetic or SyntheticSpec())
        every_value = synthetic.every_value if synthetic.spec.all_ids else None
        return OpenedLog(_cut(synthetic, settings), synthetic.infer_schema(), every_value=every_value)
    if source.is_file():
        log = open_log(source, settings.log_format, settings.label)
        return OpenedLog(
            _cut(log, settings), log.infer_schema(), source.parent, (source,), left_out=log.left_out
        )
    if is_in_parts(source):
        paths = part_files(source)
        logs, left_out = _open_files(settings, source, {path: path.relative_to(source) for path in paths})
        whole = LogInParts([logs[path] for path in paths])
        return OpenedLog(_cut(whole, settings), whole.infer_schema(), source, tuple(paths), left_out)
    files = find_split_files(source, may_lack_splits=settings.vocabulary_of is not None)
    inside = {path: Path(*path.relative_to(source).parts[1:]) for split in SPLITS for path in files[split]}
    logs, left_out = _open_files(settings, source, inside)
    by_split = {split: [logs[path] for path in files[split]] for split in SPLITS}
    first = next(iter(logs.values()))
    return OpenedLog(FileSplits(by_split), first.infer_schema(), source, tuple(inside), left_out)


def _cut(log: ClickLog, settings: PrepareSettings) -> SplitLog:
    if settings.split is None and settings.vocabulary_of is not None:
        return OnlyTest(log)
    return RowSplits(log, settings.split or SplitRule())


def _open_files(
    settings: PrepareSettings, folder: Path, files: dict[Path, Path]
) -> tuple[dict[Path, ClickLog], tuple[str, ...]]:
    """Return the readers of files, given with their paths below the folder of their log, and the columns left out."""
    columns = {path: partitions(inside) for path, inside in files.items()}
    names = tuple(dict.fromkeys(name for values in columns.values() for name in values))
    lacking = next((path for path in files if set(columns[path]) != set(names)), None)
    if lacking is not None:
        raise LogFormatError(
            f"{lacking} does not lie in a folder for each of {', '.join(names)}, as other files of {folder} do"
        )
    logs = {path: open_log(path, settings.log_format, settings.label, columns[path]) for path in files}
    first = next(iter(logs.values()))
    return logs, first.left_out if settings.log_format in LABELED_FORMATS else names
