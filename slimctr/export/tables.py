"""Trained tables as stored tensors and their manifest entries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from model_store.manifest import Segment, Table
from slimctr.export.packing import default_layout, int8_row_records, pack_codes, with_row_affine
from slimctr.networks import CtrModel, FloatTable, HalfTable, QuantizedTable


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
    for role, group in (("embedding", model.tables), ("wide", model.wide or ())):
        payload |= {role: 0} if len(group) else {}
        for field, table in zip(model.spec.field_names, group, strict=False):
            entry, stored = _store(table, tensor_name(role, field))
            tensors |= stored
            entries.append(Table(field=field, role=role, column=column, **entry))
            payload[role] += stored[entry["codes"]].nbytes
            column += entries[-1].dim
    total = sum(tensor.nbytes for tensor in tensors.values())
    return StoredTables(tensors, tuple(entries), payload, total - sum(payload.values()))


def tensor_name(role: str, field: str) -> str:
    """Name of the codes tensor of a table."""
    return f"{role}.{field}"


def _store(table: nn.Module, name: str) -> tuple[dict, dict[str, NDArray]]:
    if isinstance(table, FloatTable | HalfTable):
        weight = table.weight.detach().numpy()
        rows, dim = weight.shape
        return {"codec": weight.dtype.name, "rows": rows, "dim": dim, "codes": name}, {name: weight}
    if not isinstance(table, QuantizedTable):
        raise TypeError(f"no codec stores a {type(table).__name__}")
    codes, bits = table.codes.numpy(), table.bits
    scales, minimums = table.scales.numpy(), table.minimums.numpy()
    rows, dim = codes.shape
    entry = {"rows": rows, "dim": dim, "codes": name}
    if table.scale == "row" and bits == 8:
        return {"codec": "int8_row", **entry}, {name: int8_row_records(codes, scales, minimums)}
    layout = default_layout(dim, bits)
    packed = pack_codes(codes, bits, layout)
    entry |= {
        "codec": "packed",
        "layout": layout,
        "scale": table.scale,
        "segments": (Segment(bits=bits, start_row=0, rows=rows, byte_base=0),),
    }
    if table.scale == "row":
        return entry, {name: with_row_affine(packed, scales, minimums).reshape(-1)}
    entry |= {"scales": f"{name}.scales", "minimums": f"{name}.minimums"}
    return entry, {
        name: packed.reshape(-1),
        f"{name}.scales": np.ascontiguousarray(scales, dtype=np.float32),
        f"{name}.minimums": np.ascontiguousarray(minimums, dtype=np.float32),
    }
