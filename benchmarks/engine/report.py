"""docs/results/engine.md out of the records of a measurement."""

from collections.abc import Iterable
from typing import Any

from benchmarks.engine.scoring import BATCHES, TORCH

Record = dict[str, Any]

PAGE = """# How fast the engine scores here

Made by `make bench-engine` out of `benchmarks/results/engine.jsonl`: {machine}, {instructions}, one thread, {date};
Python {python}, {versions}.
Seed {seed}; medians of {rounds} rounds in which all contestants take turns. Other work ran on the machine: trust ratios,
not microseconds.

The model is DeepFM 400-400-400 over 39 fields, 16 wide, with random weights (`benchmarks/large_models.py` names the
variants). `torch` is the float32 original in eager mode; `original` is the same model in the engine, whose networks run
on its own kernel. "ONNX Runtime": the engine's lookup, then the same network in a session of that runtime. Ids are
drawn anew for up to 512 batches: `zipf` favors the first rows of a field (exponent 1.1), `uniform` reads all alike.

## Rows per second, as a multiple of torch

{scoring}

## Where the time goes at batch 512

Share of peak: operations of the matrix products over those of a large float32 matrix product on one thread. Share of
copy: ids, records and matrix of the lookup over the bytes a large copy moves per second; tables that fit a cache may
exceed what memory gives.

{parts}

## Lookup alone, beside other libraries

39 embedding tables on the same ids; first-order tables are left out. Speed as a multiple of {base}. torch runs one
operator per table and joins the results. Bytes per row: all tensors of the tables over all rows. Low-rank variants give
8 values a row, the others 16: what the network of each reads.

{lookups}
"""


def page(records: list[Record]) -> str:
    """Return the page of all records; the first says where they are from."""
    origin, *rest = records
    scoring = [record for record in rest if record["kind"] == "scoring"]
    lookups = [record for record in rest if record["kind"] == "lookup"]
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    bases = [record["contestant"] for record in lookups if record["ratio"] == 1.0]
    return PAGE.format(
        **{key: origin[key] for key in ("machine", "instructions", "date", "seed", "rounds", "python")},
        versions=versions,
        scoring=_by_batch(scoring, ("ids", "draw", "contestant")),
        parts=_parts(
            record for record in scoring if record["batch"] == 512 and record["contestant"] != TORCH
        ),
        base=max(set(bases), key=bases.count) if bases else "the first",
        lookups=_by_batch(lookups, ("ids", "draw", "contestant", "bytes_per_row")),
    )


def _by_batch(records: list[Record], columns: tuple[str, ...]) -> str:
    """A row per contestant and draw, a column per batch: the ratio and the microseconds per row."""
    rows: dict[tuple[Any, ...], dict[int, Record]] = {}
    for record in records:
        rows.setdefault(tuple(record[column] for column in columns), {})[record["batch"]] = record
    head = [column.replace("_", " ") for column in columns] + [f"batch {batch}" for batch in BATCHES]
    body = [
        [
            *_cells(key),
            *(f"{by[n]['ratio']:.2f} ({by[n]['us_per_row']:.2f} µs)" if n in by else "" for n in BATCHES),
        ]
        for key, by in rows.items()
    ]
    return _table(head, body)


def _parts(records: Iterable[Record]) -> str:
    head = ["ids", "draw", "variant", "network µs a row", "share of peak", "lookup µs a row", "share of copy"]
    body = [
        [
            *_cells((record["ids"], record["draw"], record["contestant"])),
            f"{record['network_us']:.2f}",
            f"{record['network_share_of_peak']:.0%} of {record['peak_gflops']:.0f} GFLOP/s",
            f"{record['lookup_us']:.2f}",
            f"{record['lookup_share_of_copy']:.0%} of {record['copy_gbytes']:.0f} GB/s",
        ]
        for record in records
    ]
    return _table(head, body)


def _cells(values: Iterable[Any]) -> list[str]:
    return [f"{value:,}" if isinstance(value, int) else str(value) for value in values]


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
