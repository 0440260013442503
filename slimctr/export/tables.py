"""Trained tables as stored tensors and their manifest entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from model_store.manifest import Segment, Table
from slimctr.export.packing import (
    Layout,
    default_layout,
    int8_row_records,
    masked_codes,
    pack_codes,
    row_bytes,
    with_row_affine,
)
from slimctr.networks import (
    CtrModel,
    FloatTable,
    HalfTable,
    MaskedTable,
    MixedTable,
    QuantizedTable,
    QuotientRemainderTable,
)


@dataclass(frozen=True)
class StoredTables:
    """Tensors of tables.safetensors, manifest entries in column order, and bytes split by what they are.

    `payload_by_role` counts the codes tensors, steps inside their records included; `scale_bytes` the steps
    and minimums of columns.
    """

    tensors: dict[str, NDArray]
    entries: tuple[Table, ...]
    payload_by_role: dict[str, int]
    scale_bytes: int


def store_tables(model: CtrModel) -> StoredTables:
    """Pack every table of `model` in the codec of its kind, columns in the order of `CtrModel.lookup`."""
    tensors: dict[str, NDArray] = {}
    entries: list[Table] = []
    payload: dict[str, int] = {}
    column = 0
    maps = model.spec.row_maps or (None,) * len(model.spec.rows)
    zero_rows = [None if row_map is None else row_map.zero_row for row_map in maps]
    for role, group in (("embedding", model.tables), ("wide", model.wide or ())):
        payload |= {role: 0} if len(group) else {}
        for field, table, zero_row in zip(model.spec.field_names, group, zero_rows, strict=False):
            entry, stored = _store(table, tensor_name(role, field), zero_row)
            tensors |= stored
            entries.append(Table(field=field, role=role, column=column, **entry))
            payload[role] += stored[entry["codes"]].nbytes
            column += entries[-1].dim
    total = sum(tensor.nbytes for tensor in tensors.values())
    return StoredTables(tensors, tuple(entries), payload, total - sum(payload.values()))


def tensor_name(role: str, field: str) -> str:
    """Name of the codes tensor of a table."""
    return f"{role}.{field}"


def _store(table: nn.Module, name: str, zero_row: int | None) -> tuple[dict, dict[str, NDArray]]:
    if isinstance(table, FloatTable | HalfTable):
        weight = table.weight.detach().numpy()
        if zero_row is not None:
            weight = weight.copy()
            weight[zero_row] = 0
        rows, dim = weight.shape
        return {"codec": weight.dtype.name, "rows": rows, "dim": dim, "codes": name}, {name: weight}
    if isinstance(table, QuotientRemainderTable):
        both = np.concatenate([table.quotient.detach().numpy(), table.remainder.detach().numpy()])
        entry = {"codec": "quotient_remainder", "rows": table.rows, "dim": both.shape[1], "codes": name}
        return entry | {"divisor": table.divisor, "combine": table.combine}, {name: both}
    if isinstance(table, MaskedTable):
        dtype = np.dtype(np.float32 if table.value_bits == 32 else np.float16)
        values = table.values.detach().numpy().astype(dtype)
        entry = {"codec": f"masked_{dtype.name}", "rows": len(table.masks), "dim": table.dim}
        entry |= {"kept": values.size, "codes": name}
        return entry, {name: masked_codes(table.masks.numpy(), values)}
    if isinstance(table, MixedTable):
        return _store_by_column(table, table.segments, name)
    if not isinstance(table, QuantizedTable):
        raise TypeError(f"no codec stores a {type(table).__name__}")
    rows, bits = len(table.codes), table.bits
    if table.scale == "column":
        return _store_by_column(table, with_zero_row(bits, rows, zero_row), name)
    codes, scales, minimums = table.codes.numpy(), table.scales.numpy(), table.minimums.numpy()
    if zero_row is not None:
        scales, minimums = scales.copy(), minimums.copy()
        scales[zero_row] = minimums[zero_row] = 0
    entry = {"rows": rows, "dim": codes.shape[1], "codes": name}
    if bits == 8:
        return {"codec": "int8_row", **entry}, {name: int8_row_records(codes, scales, minimums)}
    layout = default_layout(codes.shape[1], bits)
    packed = pack_codes(codes, bits, layout)
    segments = (Segment(bits=bits, start_row=0, rows=rows, byte_base=0),)
    entry |= {"codec": "packed", "layout": layout, "scale": "row", "segments": segments}
    return entry, {name: with_row_affine(packed, scales, minimums).reshape(-1)}


def with_zero_row(bits: int, rows: int, zero_row: int | None) -> tuple[tuple[int, int], ...]:
    """Segments (bits, rows) of a table of one width whose first or last row may read zeros."""
    if zero_row is None:
        return ((bits, rows),)
    coded = ((bits, rows - 1),) if rows > 1 else ()
    return ((0, 1), *coded) if zero_row == 0 else (*coded, (0, 1))


def _store_by_column(
    table: QuantizedTable | MixedTable, segments: Sequence[tuple[int, int]], name: str
) -> tuple[dict, dict[str, NDArray]]:
    """Pack rows of a scale per column in their segments, one after the other.

    One layout serves the whole table: the one of fewer bytes over all segments.
    """
    codes = table.codes.numpy()
    rows, dim = codes.shape
    layouts: tuple[Layout, ...] = ("stream", "planes") if dim % 8 else ("planes", "stream")
    layout = min(layouts, key=lambda way: sum(n * row_bytes(dim, bits, way) for bits, n in segments))
    if all(bits in (0, 8) for bits, _ in segments):
        layout = "stream"  # eight bits are whole bytes there, the quickest to read
    placed, parts, start_row, byte_base = [], [np.zeros(0, np.uint8)], 0, 0
    for bits, count in segments:
        placed.append(Segment(bits=bits, start_row=start_row, rows=count, byte_base=byte_base))
        if bits:
            packed = pack_codes(codes[start_row : start_row + count], bits, layout).reshape(-1)
            parts.append(packed)
            byte_base += packed.nbytes
        start_row += count
    entry = {
        **{"codec": "packed", "rows": rows, "dim": dim, "codes": name, "layout": layout, "scale": "column"},
        **{"segments": tuple(placed), "scales": f"{name}.scales", "minimums": f"{name}.minimums"},
    }
    return entry, {
        name: np.concatenate(parts),
        f"{name}.scales": np.ascontiguousarray(table.scales.numpy(), dtype=np.float32),
        f"{name}.minimums": np.ascontiguousarray(table.minimums.numpy(), dtype=np.float32),
    }
