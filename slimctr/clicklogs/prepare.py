"""Encodes a click log into a data set directory in two streaming passes: count values, then encode every split."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from model_store.tensors import write_tensors
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
from slimctr.clicklogs.opened_log import OpenedLog, open_source
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.published import published_encoder
from slimctr.clicklogs.rows import LABEL_COLUMN
from slimctr.clicklogs.settings import PrepareSettings, check_settings, final_schema
from slimctr.clicklogs.sources import sha256_of
from slimctr.clicklogs.split_writer import ParquetRows, SplitTally
from slimctr.clicklogs.splits import SPLITS
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import EncodedBatch, Encoder, FeatureSchema, Vocabulary
from slimctr.folders import sole_writer

RAW_TEST_ROWS = 50_000

Progress = Callable[[str, int, float], None]
"""Called again and again with the name of the step, the rows it has read and the share that is done, 0 to 1."""


def prepare(
    settings: PrepareSettings, out: Path, overwrite: bool = False, progress: Progress | None = None
) -> Dataset:
    """Write the encoded data set `out` and open it; nothing is left behind when it fails.

    The vocabulary lists training values only. Raises LogFormatError for a log that cannot be read,
    ConfigError for a schema or setting that does not fit it and for an `out` that must not be replaced or that another
    process writes.
    """
    check_settings(settings)
    published = published_encoder(settings.vocabulary_of) if settings.vocabulary_of is not None else None
    source = open_source(settings)
    schema = published.schema if published else final_schema(settings, source.schema)
    report = progress or (lambda step, rows, fraction: None)
    with _written_beside(out, overwrite) as folder:
        _measure(source, schema, settings.strict, report)
        file = folder / "vocabulary.safetensors"
        warnings = source.warnings(schema)
        if published:
            shutil.copyfile(published.path, file)
            vocabulary = Vocabulary.open(file, schema)
        else:
            vocabulary, forms = _count(source, schema, settings.strict, report)
            vocabulary.save(file)
            warnings += forms
        schema.save(folder / "schema.json")
        may_be_empty = published is not None
        info = _encode(source, Encoder(schema, vocabulary), folder, settings.strict, may_be_empty, report)
        info["warnings"] += warnings
        info = {
            "dataset_version": DATASET_VERSION,
            "format": settings.log_format,
            "split": source.log.rule(),
            **({"vocabulary_of": published.name} if published else {}),
            **info,
            "source": _checksums(source.files, source.folder, "checksums of the source", report),
            "files": _checksums(sorted(folder.iterdir()), folder, "checksums of the data set", report),
        }
        (folder / "dataset.json").write_text(json.dumps(info, indent=1) + "\n")
    return Dataset(out)


def _measure(source: OpenedLog, schema: FeatureSchema, strict: bool, report: Progress) -> None:
    rows = 0
    for batch_rows in source.log.measure(schema, ParseErrors(strict, source.folder)):
        rows += batch_rows
        report("counting rows", rows, source.log.fraction)


def _count(
    source: OpenedLog, schema: FeatureSchema, strict: bool, report: Progress
) -> tuple[Vocabulary, list[str]]:
    """Return the vocabulary of the training split, and what to say of values that are written in another form."""
    log = source.log
    listed = [feature for feature in schema.fields if feature.hash_rows is None]
    counters = {feature.name: KeyCounter(feature.name) for feature in listed}
    forms = {feature.name: KeyForms() for feature in schema.fields if feature.hash_rows is not None}
    forms |= {name: counter.forms for name, counter in counters.items()}
    errors = ParseErrors(strict, source.folder)
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
    return vocabulary, [warning for name in schema.names for warning in forms[name].warnings(name)]


def _encode(
    source: OpenedLog, encoder: Encoder, folder: Path, strict: bool, may_be_empty: bool, report: Progress
) -> dict[str, Any]:
    """Write every split, the raw test rows and the counts; return what dataset.json says of them."""
    log, schema = source.log, encoder.schema
    errors = ParseErrors(strict, source.folder)
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
        if not may_be_empty or split == "test":
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
        "warnings": [
            warning for split in SPLITS if tallies[split].rows for warning in tallies[split].warnings(split)
        ],
    }


def _checksums(paths: Sequence[Path], folder: Path, step: str, report: Progress) -> list[dict[str, Any]]:
    """Return the path below `folder`, size and SHA-256 of every file."""
    total = max(sum(path.stat().st_size for path in paths), 1)
    entries: list[dict[str, Any]] = []
    for path in paths:
        entries.append(
            {"file": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        )
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
        raise LogFormatError(
            f"the {split} split has no usable row{refused}. A split needs rows of its own: give it more of the log "
            "(--split), or a file with rows"
        )


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

    What a killed process left is swept first. A link stays, and what it leads to is written. Raises ConfigError when
    `out` must not be replaced, or another process writes it.
    """
    if out.name in ("", ".."):
        raise ConfigError(f"'{out}' cannot be put into place: name the folder of the data set with --out")
    if out.is_symlink():
        out = out.resolve()
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
