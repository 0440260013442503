"""What `prepare` is asked to do; a setting that would do nothing is refused."""

from dataclasses import dataclass, field
from pathlib import Path

from slimctr.clicklogs.click_log import LogFormat
from slimctr.clicklogs.splits import SplitRule, is_in_parts
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import FeatureSchema

LABELED_FORMATS = ("csv", "parquet")


@dataclass(frozen=True)
class PrepareSettings:
    """What to encode and how.

    `source`: a directory with files per split, or one file cut by `split` (None for `synthetic`). `label`:
    the label column of csv and parquet. `schema`: a schema file; without one the format suggests the fields.
    `min_count`, `hash_rows` (field → rows) and `required` change that schema. `strict` stops at the first
    line that cannot be read. `vocabulary_of`: a published version (its folder, or STORE/NAME@VERSION) whose schema and
    vocabulary encode the log; then one file without `split` is the test split, and a split may be empty.
    """

    log_format: LogFormat
    source: Path | None = None
    label: str | None = None
    schema: Path | None = None
    min_count: int | None = None
    hash_rows: dict[str, int] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    split: SplitRule | None = None
    strict: bool = False
    synthetic: SyntheticSpec | None = None
    vocabulary_of: Path | None = None


def check_settings(settings: PrepareSettings) -> None:
    """Raise ConfigError for a setting without effect on this source, LogFormatError for a source that is not there."""
    log_format, source = settings.log_format, settings.source
    is_synthetic = log_format == "synthetic"
    if is_synthetic and source is not None:
        raise ConfigError(f"--format synthetic generates its clicks: leave the SOURCE {str(source)!r} out")
    if not is_synthetic and source is None:
        raise ConfigError(f"format {log_format} needs a SOURCE: a file, or a directory with files per split")
    if source is not None and not source.exists():
        raise LogFormatError(f"no click log at {source}")
    if source is not None and not (source.is_file() or source.is_dir()):
        raise LogFormatError(
            f"{source} is neither a file nor a directory; a log is read twice, so a pipe is none"
        )
    if settings.synthetic is not None and not is_synthetic:
        raise ConfigError("--rows, --ids, --all-ids and --click-rate shape a log of --format synthetic only")
    if settings.label is not None and log_format not in LABELED_FORMATS:
        raise ConfigError(
            f"--label names a column of csv or parquet: in format {log_format} the label has its place"
        )
    if settings.split is not None and source is not None and source.is_dir() and not is_in_parts(source):
        raise ConfigError(
            f"--split, --split-order and --seed cut one file, but {source} is a directory, whose files name their "
            "split: leave them out, or name one file"
        )
    if settings.strict and is_synthetic:
        raise ConfigError(
            "--strict stops at a line that cannot be read; a generated log has none: leave it out"
        )
    if settings.vocabulary_of is not None:
        given = {
            "--schema": settings.schema,
            "--min-count": settings.min_count,
            "--hash": settings.hash_rows,
            "--required": settings.required,
            "--all-ids": settings.synthetic and settings.synthetic.all_ids,
        }
        for option, value in given.items():
            if value:
                raise ConfigError(
                    f"{option} shapes a new vocabulary: with --vocabulary-of that of the version counts"
                )
    elif settings.min_count is not None and settings.synthetic and settings.synthetic.all_ids:
        raise ConfigError("--all-ids lists every id, so --min-count has no effect: leave one of them out")


def final_schema(settings: PrepareSettings, inferred: FeatureSchema) -> FeatureSchema:
    """Return the schema file's fields, or the inferred ones, changed by the settings. Raises ConfigError."""
    base = FeatureSchema.load(settings.schema) if settings.schema else inferred
    unknown = sorted({*settings.hash_rows, *settings.required} - set(base.names))
    if unknown:
        raise ConfigError(
            f"no field {', '.join(unknown)} in this log: its fields are {', '.join(base.names)}"
        )
    fields = []
    counted = 0
    for entry in base.model_dump()["fields"]:
        if entry["name"] in settings.hash_rows:
            entry |= {"hash_rows": settings.hash_rows[entry["name"]], "min_count": 1}
        if settings.min_count is not None and entry["kind"] == "categorical" and entry["hash_rows"] is None:
            entry["min_count"] = settings.min_count
            counted += 1
        if entry["name"] in settings.required:
            entry["required"] = True
        fields.append(entry)
    if settings.min_count is not None and not counted:
        raise ConfigError(
            "--min-count has no effect: every field is hashed or numeric, so no value is listed by count"
        )
    return FeatureSchema.parse({"fields": fields}, "schema of this log")
