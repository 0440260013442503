"""Encodes a click log into a data set directory in two streaming passes: count values, then encode every split."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_store.tensors import write_tensors
from slimctr.clicklogs.click_log import LogFormat, open_log
from slimctr.clicklogs.counting import KeyCounter, KeyForms
from slimctr.clicklogs.dataset import DATASET_VERSION, Dataset
from slimctr.clicklogs.encoding import (
    encode_batch,
    encoded_columns,
    encoded_schema,
    field_keys,
    raw_schema,
    text_column,
)
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import LABEL_COLUMN
from slimctr.clicklogs.sources import sha256_of
from slimctr.clicklogs.split_writer import ParquetRows, SplitTally
from slimctr.clicklogs.splits import SPLITS, FileSplits, RowSplits, SplitLog, SplitRule, find_split_files
from slimctr.clicklogs.synthetic import SyntheticLog, SyntheticSpec
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import EncodedBatch, Encoder, FeatureSchema, Vocabulary
from slimctr.folders import sole_writer

RAW_TEST_ROWS = 50_000

Progress = Callable[[str, int, float], None]
"""Called again and again with the name of the step, the rows it has read and the share that is done, 0 to 1."""


@dataclass(frozen=True)
class PrepareSettings:
    """What to encode and how.

    `source`: a directory with a file per split, or one file cut by `split` (None for `synthetic`). `label`:
    the label column of csv and parquet. `schema`: a schema file; without one the format suggests the fields.
    `min_count`, `hash_rows` (field → rows) and `required` change that schema. `strict` stops at the first
    line that cannot be read.
    """

    log_format: LogFormat
    source: Path | None = None
    label: str | None = None
    schema: Path | None = None
    min_count: int | None = None
    hash_rows: dict[str, int] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    split: SplitRule = field(default_factory=SplitRule)
    strict: bool = False
    synthetic: SyntheticSpec = field(default_factory=SyntheticSpec)


def prepare(
    settings: PrepareSettings, out: Path, overwrite: bool = False, progress: Progress | None = None
) -> Dataset:
    """Write the encoded data set `out` and open it; nothing is left behind when it fails.

    The vocabulary lists training values only. Raises LogFormatError for a log that cannot be read,
    ConfigError for a schema or setting that does not fit it and for an `out` that must not be replaced or that another
    process writes.
    """
    source = _open_source(settings)
    schema = _final_schema(settings, source.schema)
    report = progress or (lambda step, rows, fraction: None)
    with _written_beside(out, overwrite) as folder:
        vocabulary, forms = _count(source, schema, settings.strict, report)
        schema.save(folder / "schema.json")
        vocabulary.save(folder / "vocabulary.safetensors")
        info = _encode(source.log, Encoder(schema, vocabulary), folder, settings.strict, report)
        info["warnings"] += forms + ([] if settings.schema else source.warnings)
        info = {
            "dataset_version": DATASET_VERSION,
            "format": settings.log_format,
            "split": source.log.rule(),
            **info,
            "source": _checksums(source.files, "checksums of the source", report),
            "files": _checksums(sorted(folder.iterdir()), "checksums of the data set", report),
        }
        (folder / "dataset.json").write_text(json.dumps(info, indent=1) + "\n")
    return Dataset(out)


@dataclass(frozen=True)
class _Source:
    """An opened log, the schema that it suggests, its files, and all values a field can take where they are known."""

    log: SplitLog
    schema: FeatureSchema
    files: list[Path]
    every_value: Callable[[str], Iterator[pa.Array]] | None = None
    left_out: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What the user should know of the columns."""
        return [
            f"column {name} is left out, because it may be the label too: a schema file (--schema) can make it a field"
            for name in self.left_out
        ]


def _open_source(settings: PrepareSettings) -> _Source:
    """Open the log; its first training file suggests the schema."""
    if settings.log_format == "synthetic":
        synthetic = SyntheticLog(settings.synthetic)
        every_value = synthetic.every_value if settings.synthetic.all_ids else None
        return _Source(RowSplits(synthetic, settings.split), synthetic.infer_schema(), [], every_value)
    if settings.source is None:
        raise ConfigError(
            f"format {settings.log_format} needs a SOURCE: a file, or a directory with a file per split"
        )
    if not settings.source.exists():
        raise LogFormatError(f"no click log at {settings.source}")
    if settings.source.is_dir():
        files = find_split_files(settings.source)
        logs = {
            split: [open_log(path, settings.log_format, settings.label) for path in paths]
            for split, paths in files.items()
        }
        first = logs["train"][0]
        paths = [path for split in SPLITS for path in files[split]]
        return _Source(FileSplits(logs), first.infer_schema(), paths, left_out=first.left_out)
    log = open_log(settings.source, settings.log_format, settings.label)
    rows = RowSplits(log, settings.split)
    return _Source(rows, log.infer_schema(), [settings.source], left_out=log.left_out)


def _final_schema(settings: PrepareSettings, inferred: FeatureSchema) -> FeatureSchema:
    base = FeatureSchema.load(settings.schema) if settings.schema else inferred
    unknown = sorted({*settings.hash_rows, *settings.required} - set(base.names))
    if unknown:
        raise ConfigError(
            f"no field {', '.join(unknown)} in this log: its fields are {', '.join(base.names)}"
        )
    fields = []
    for entry in base.model_dump()["fields"]:
        if entry["name"] in settings.hash_rows:
            entry |= {"hash_rows": settings.hash_rows[entry["name"]], "min_count": 1}
        if settings.min_count is not None and entry["kind"] == "categorical" and entry["hash_rows"] is None:
            entry["min_count"] = settings.min_count
        if entry["name"] in settings.required:
            entry["required"] = True
        fields.append(entry)
    return FeatureSchema.parse({"fields": fields}, "schema of this log")


def _count(
    source: _Source, schema: FeatureSchema, strict: bool, report: Progress
) -> tuple[Vocabulary, list[str]]:
    """Return the vocabulary of the training split, and what to say of values that are written in another form."""
    log = source.log
    rows = 0
    for batch_rows in log.measure(schema, ParseErrors(strict)):
        rows += batch_rows
        report("counting rows", rows, log.fraction)
    listed = [feature for feature in schema.fields if feature.hash_rows is None]
    counters = {feature.name: KeyCounter(feature.name) for feature in listed}
    forms = {feature.name: KeyForms() for feature in schema.fields if feature.hash_rows is not None}
    forms |= {name: counter.forms for name, counter in counters.items()}
    errors = ParseErrors(strict)
    rows = 0
    for _, batch in log.batches(schema, errors, only="train"):
        for feature in schema.fields:
            keys = field_keys(batch.column(feature.name), feature)
            if feature.hash_rows is None:
                counters[feature.name].add(keys)
            else:
                forms[feature.name].keys(pc.value_counts(pc.fill_null(keys, "")))
        rows += batch.num_rows
        report("counting training values", rows, log.fraction)
    _require_rows("train", rows, errors)
    listed_keys = {}
    for number, feature in enumerate(listed):
        counter = counters.pop(feature.name)
        min_count = feature.min_count
        if source.every_value is not None:
            min_count = 0
            for values in source.every_value(feature.name):
                counter.add_unseen(values)
        listed_keys[feature.name] = text_column(counter.listed(min_count))
        report("building the vocabulary", 0, (number + 1) / (len(listed) + 1))
    vocabulary = Vocabulary.build(schema, listed_keys)
    report("building the vocabulary", 0, 1.0)
    warnings = [forms[name].warning(name) for name in schema.names]
    return vocabulary, [warning for warning in warnings if warning]


def _encode(log: SplitLog, encoder: Encoder, folder: Path, strict: bool, report: Progress) -> dict[str, Any]:
    """Write every split, the raw test rows and the counts; return what dataset.json says of them."""
    schema = encoder.schema
    errors = ParseErrors(strict)
    tallies = {split: SplitTally(schema) for split in SPLITS}
    counts = [np.zeros(rows, np.int64) for rows in encoder.vocabulary.rows_per_field]
    writers = {split: ParquetRows(folder / f"{split}.parquet", encoded_schema(schema)) for split in SPLITS}
    raw_test = ParquetRows(folder / "raw_test.parquet", raw_schema(schema))
    try:
        for split, batch in log.batches(schema, errors):
            encoded = encode_batch(batch, encoder)
            labels = batch.column(LABEL_COLUMN)
            writers[split].add(encoded_columns(labels, encoded, schema))
            tallies[split].add(labels.to_numpy(), encoded)
            if split == "train":
                _add_counts(counts, encoded, schema)
            if split == "test" and raw_test.rows < RAW_TEST_ROWS:
                raw_test.add(batch.slice(0, RAW_TEST_ROWS - raw_test.rows))
            report("encoding", sum(tally.rows for tally in tallies.values()), log.fraction)
    finally:
        for writer in (*writers.values(), raw_test):
            writer.close()
    for split in SPLITS:
        _require_rows(split, tallies[split].rows, errors)
    write_tensors(folder / "counts.safetensors", dict(zip(schema.names, counts, strict=True)))
    return {
        "splits": {split: tally.summary() for split, tally in tallies.items()},
        "fields": [
            {
                "name": field.name,
                "kind": field.kind,
                "rows": encoder.vocabulary.rows(position),
                "splits": {split: tally.field_summary(position) for split, tally in tallies.items()},
            }
            for position, field in enumerate(schema.fields)
        ],
        "parse_errors": errors.report(),
        "warnings": [warning for split in SPLITS for warning in tallies[split].warnings(split)],
    }


def _checksums(paths: list[Path], step: str, report: Progress) -> list[dict[str, Any]]:
    """Return name, size and SHA-256 of every file."""
    total = max(sum(path.stat().st_size for path in paths), 1)
    entries: list[dict[str, Any]] = []
    for path in paths:
        entries.append({"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)})
        report(step, 0, sum(entry["bytes"] for entry in entries) / total)
    return entries


def _add_counts(counts: list[np.ndarray], encoded: EncodedBatch, schema: FeatureSchema) -> None:
    columns = dict(zip(schema.single, encoded.ids.T, strict=True)) | {
        position: bag.values for position, bag in zip(schema.multi, encoded.bags, strict=True)
    }
    for position, ids in columns.items():
        rows, occurrences = np.unique(ids, return_counts=True)
        counts[position][rows] += occurrences


def _require_rows(split: str, rows: int, errors: ParseErrors) -> None:
    if rows == 0:
        refused = f"; {errors.count} lines were refused, first {errors.examples[0]}" if errors.count else ""
        raise LogFormatError(f"the {split} split has no usable row{refused}")


def _refuse_to_replace(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ConfigError(
            f"{out} exists and is not empty: choose another --out, or replace it with --overwrite"
        )
    if not (out / "dataset.json").is_file():
        raise ConfigError(
            f"{out} is no encoded data set, so --overwrite does not replace it: choose another --out"
        )


@contextmanager
def _written_beside(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside `out` that takes its place on success and disappears on failure; one process at a time.

    What a killed process left is swept first. Raises ConfigError when `out` must not be replaced, or another process
    writes it.
    """
    folder = out.with_name(f".{out.name}.partial")
    retired = out.with_name(f".{out.name}.replaced")
    with sole_writer(folder, out):
        try:
            if retired.exists() and not out.exists():  # killed between the two renames below
                retired.rename(out)
            _refuse_to_replace(out, overwrite)
            for leftover in (*folder.iterdir(), retired):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
            yield folder
            _refuse_to_replace(out, overwrite)
            if out.exists():
                out.rename(retired)
            folder.rename(out)
        except BaseException:
            if retired.exists() and not out.exists():
                retired.rename(out)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(retired, ignore_errors=True)
