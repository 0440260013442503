"""Lookup alone: the engine's packed tables beside FBGEMM's table-batched embeddings and torch's quantized bags."""

import statistics
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.engine.rounds import Call, Turns, median_ratio
from benchmarks.engine.scoring import cases
from benchmarks.large_models import model_name
from benchmarks.random_models import DIM, field_rows
from model_store.artifact import TABLES_FILE
from model_store.store import ModelStore
from model_store.tensors import map_tensors
from slimctr.features import FeatureSchema
from slimctr.native.lookup import TableLookup
from slimctr.scoring.tables import build_lookup

FBGEMM = "FBGEMM 8 bits"


def time_lookups(
    store: ModelStore, ids: int, versions: Mapping[str, int], turns: Turns, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield a record for every draw, batch and contestant; ratios are to FBGEMM, or to the first without it."""
    rows = field_rows(ids)
    calls_of, bytes_per_row = {}, {}
    for bits in (8, 4):
        if (fbgemm := fbgemm_tables(rows, bits)) is not None:
            calls_of[f"FBGEMM {bits} bits"], bytes_per_row[f"FBGEMM {bits} bits"] = fbgemm
        calls_of[f"torch {bits} bits"], bytes_per_row[f"torch {bits} bits"] = torch_bags(rows, bits)
    for variant, version in versions.items():
        lookup, size = embedding_lookup(store, model_name(ids), version)
        calls_of[variant] = lambda pieces, lookup=lookup: [(lookup, piece) for piece in pieces]
        bytes_per_row[variant] = size / sum(rows)
    base = FBGEMM if FBGEMM in calls_of else next(iter(calls_of))
    for draw, batch, pieces in cases(rows, seed):
        with torch.inference_mode():
            seconds = turns.take({name: _cycle(of(pieces)) for name, of in calls_of.items()})
        for name, spent in seconds.items():
            yield {
                "kind": "lookup",
                **{"ids": ids, "draw": draw, "batch": batch, "contestant": name},
                "us_per_row": round(1e6 * statistics.median(spent) / batch, 3),
                "ratio": round(median_ratio(seconds[base], spent), 3),
                "bytes_per_row": round(bytes_per_row[name], 2),
            }


def embedding_lookup(store: ModelStore, model: str, version: int) -> tuple[TableLookup, int]:
    """Return the lookup of the embedding tables of a version, first-order tables left out, and their bytes."""
    manifest = store.manifest(model, version)
    tables = tuple(table for table in manifest.tables if table.role == "embedding")
    names = {name for table in tables for name in (table.codes, table.scales, table.minimums) if name}
    mapped = map_tensors(store.path(model, version) / TABLES_FILE)
    tensors = {name: tensor for name, tensor in mapped.items() if name in names}
    width = sum(table.dim for table in tables)
    network = manifest.network.model_copy(update={"width": width})
    smaller = manifest.model_copy(update={"tables": tables, "network": network})
    lookup = build_lookup(smaller, tensors, FeatureSchema.parse(manifest.features))
    return lookup, sum(tensor.nbytes for tensor in tensors.values())


def fbgemm_tables(rows: tuple[int, ...], bits: int) -> tuple[Any, float] | None:
    """Return (pieces to calls, bytes per row) of FBGEMM's inference tables, None where it is not installed."""
    try:
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
            IntNBitTableBatchedEmbeddingBagsCodegen,
        )
    except ImportError:
        return None
    kind = SparseType.INT8 if bits == 8 else SparseType.INT4
    tables = IntNBitTableBatchedEmbeddingBagsCodegen(
        [(f"C{place}", size, DIM, kind, EmbeddingLocation.HOST) for place, size in enumerate(rows)],
        device="cpu",
        output_dtype=SparseType.FP32,
    )
    tables.fill_random_weights()
    size = sum(
        part.numel() for table in tables.split_embedding_weights() for part in table if part is not None
    )

    def calls(pieces: list[NDArray[np.int32]]) -> list[tuple[Any, ...]]:
        offsets = torch.arange(pieces[0].size + 1, dtype=torch.int32)
        by_table = [torch.from_numpy(np.ascontiguousarray(piece.T).reshape(-1)) for piece in pieces]
        return [(tables, indices, offsets) for indices in by_table]

    return calls, size / sum(rows)


def torch_bags(rows: tuple[int, ...], bits: int) -> tuple[Any, float]:
    """Return (pieces to calls, bytes per row) of torch's quantized bags: one operator per table, then their join."""
    generator = torch.Generator().manual_seed(0)
    if bits == 8:
        prepack = torch.ops.quantized.embedding_bag_byte_prepack
        read = torch.ops.quantized.embedding_bag_byte_rowwise_offsets
    else:
        prepack = torch.ops.quantized.embedding_bag_4bit_prepack
        read = torch.ops.quantized.embedding_bag_4bit_rowwise_offsets
    whole = prepack(torch.randn(sum(rows), DIM, generator=generator))
    ends = list(accumulate(rows))
    tables = [whole[end - size : end] for end, size in zip(ends, rows, strict=True)]

    def look_up(columns: list[torch.Tensor], offsets: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [read(table, ids, offsets) for table, ids in zip(tables, columns, strict=True)], dim=1
        )

    def calls(pieces: list[NDArray[np.int32]]) -> list[tuple[Any, ...]]:
        offsets = torch.arange(len(pieces[0]), dtype=torch.int32)
        columns = [[torch.from_numpy(np.ascontiguousarray(ids)) for ids in piece.T] for piece in pieces]
        return [(look_up, some, offsets) for some in columns]

    return calls, whole.numel() / sum(rows)


def _cycle(calls: list[tuple[Any, ...]]) -> Call:
    def call(turn: int) -> object:
        function, *arguments = calls[turn % len(calls)]
        if isinstance(function, TableLookup):
            return function(*arguments, ())
        return function(*arguments)

    return call
