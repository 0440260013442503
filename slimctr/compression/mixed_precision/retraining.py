"""Training at widths that are decided: rows of 0 bits are dropped, the others are trained through their quantizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import model_of, with_parts
from slimctr.compression.low_precision.own_training import train_inside
from slimctr.compression.low_precision.start import LowPrecisionSettings, row_blocks
from slimctr.compression.low_precision.stored import stored_wide_table
from slimctr.compression.row_dropping import (
    drop_rows,
    droppable_fields,
    stored_order,
    table_counts,
)
from slimctr.networks import CtrModel, MixedTable, QuantizedTable, TableSpec, ZeroRows
from slimctr.networks.mixed_training import Quantizers, RowWidthTable
from slimctr.training import EpochRecord


@dataclass(frozen=True)
class Widths:
    """Bits of every row of the vocabulary, int64 (N_f,) per field, and what rows of 0 bits read."""

    bits: tuple[NDArray[np.int64], ...]
    zero_rows: ZeroRows

    @classmethod
    def decided(
        cls, bits: Sequence[NDArray[np.int64]], model: CtrModel, data: CompressionData, zero_rows: ZeroRows
    ) -> "Widths":
        """Make widths fit for storage.

        Under `oov` the out-of-vocabulary row stands for all dropped values and gets the largest width of all;
        under `zero` it has none. A hashed field keeps all its rows, at its largest width.
        """
        largest = max(int(field.max()) for field in bits)
        fitted = []
        droppable = droppable_fields(model.spec, data.dataset.schema)
        for field, may_drop in zip(bits, droppable, strict=True):
            widths = field.copy() if may_drop else np.full_like(field, max(1, field.max()))
            if may_drop and zero_rows != "keyed":
                widths[0] = largest if zero_rows == "oov" else 0
            fitted.append(widths)
        return cls(tuple(fitted), zero_rows)

    def orders(self, model: CtrModel, data: CompressionData) -> list[NDArray[np.int64] | None]:
        """Rows that are stored, per field, as `drop_rows` takes them; None for a hashed field."""
        droppable = droppable_fields(model.spec, data.dataset.schema)
        return [
            stored_order(bits > 0, bits, counts) if may_drop else None
            for bits, counts, may_drop in zip(self.bits, data.counts, droppable, strict=True)
        ]


def retrain_at(
    widths: Widths,
    model: CtrModel,
    quantizers: Sequence[Quantizers],
    columns: Sequence[Tensor | None],
    data: CompressionData,
    config: LowPrecisionSettings,
) -> tuple[CtrModel, tuple[EpochRecord, ...], dict[str, Any]]:
    """Train `model` with every row at its width and return the stored model, its epochs and what to record.

    Network, steps, offsets and first-order tables go on from what `model` and `quantizers` hold; embedding rows are
    those that `model.tables` holds. Steps and offsets are trained with the rest.
    """
    orders = widths.orders(model, data)
    training = drop_rows(model, orders, widths.zero_rows)
    stored_bits = [
        _stored_bits(bits, order, rows)
        for bits, order, rows in zip(widths.bits, orders, training.spec.stored_rows, strict=True)
    ]
    training.tables = nn.ModuleList(
        RowWidthTable(table.weight.detach().clone(), torch.from_numpy(bits), quantizer, kept)
        for table, bits, quantizer, kept in zip(
            training.tables, stored_bits, quantizers, columns, strict=True
        )
    )
    history, statistics = train_inside(training, data, config)
    return _stored(training, stored_bits, data, config), history, statistics


def start_rows(model: CtrModel, data: CompressionData, config: LowPrecisionSettings) -> list[Tensor]:
    """Return the embedding rows that search and retraining start from, drawn again bit for bit by every call."""
    seed = data.training.seed
    return [
        torch.cat(list(row_blocks(model, field, config, seed)())).clone()
        for field in range(len(model.spec.rows))
    ]


def _stored_bits(bits: NDArray[np.int64], order: NDArray[np.int64] | None, rows: int) -> NDArray[np.uint8]:
    """Bits of every stored row; the zero row of a keyed map has none."""
    stored = np.zeros(rows, np.uint8)
    kept = bits if order is None else bits[order]
    stored[: len(kept)] = kept
    return stored


def _stored(
    training: CtrModel,
    stored_bits: Sequence[NDArray[np.uint8]],
    data: CompressionData,
    config: LowPrecisionSettings,
) -> CtrModel:
    counts = table_counts(training, data.counts)
    state = {
        name: tensor
        for name, tensor in training.state_dict().items()
        if not name.startswith(("tables.", "wide."))
    }
    tables, wide = [], []
    for field, (table, bits) in enumerate(zip(training.tables, stored_bits, strict=True)):
        _set_unread_oov_row(table, bits, counts[field])
        stored = mixed_table(table.weight.detach(), bits, table.quantizers, table.columns)
        tables.append(TableSpec(kind="mixed", dim=table.weight.shape[1], segments=stored.segments))
        state |= {f"tables.{field}.{name}": tensor for name, tensor in stored.state_dict().items()}
    for field, first_order in enumerate(training.wide or ()):
        with torch.no_grad():
            _set_unread_oov_row(first_order, stored_bits[field], counts[field])
            first_order.weight[torch.from_numpy(stored_bits[field] == 0)] = 0
        one = stored_wide_table(first_order, config.wide_bits, counts[field])
        wide.append(
            TableSpec(kind="quantized", dim=1, bits=one.bits, scale=one.scale)
            if isinstance(one, QuantizedTable)
            else TableSpec(dim=1)
        )
        state |= {f"wide.{field}.{name}": tensor for name, tensor in one.state_dict().items()}
    return model_of(with_parts(training.spec, tables=tables, wide=wide), state)


@torch.no_grad()
def _set_unread_oov_row(table: nn.Module, bits: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    """Set an out-of-vocabulary row that training never read, and that has bits, to the mean row by training count."""
    if bits[0] and counts[0] == 0 and counts.sum():
        share = torch.from_numpy(counts / counts.sum())
        table.weight[0] = (share @ table.weight.double()).float()


def mixed_table(
    weight: Tensor, bits: NDArray[np.uint8], quantizers: Quantizers, columns: Tensor | None
) -> MixedTable:
    """Return rows (N, d) as codes of the widths `bits` (N,), a segment for every run of equal widths."""
    ends = np.flatnonzero(np.diff(bits)) + 1
    starts = np.concatenate([[0], ends])
    stops = np.concatenate([ends, [len(bits)]])
    segments = [(int(bits[start]), int(stop - start)) for start, stop in zip(starts, stops, strict=True)]
    table = MixedTable(len(bits), weight.shape[1], segments)
    for place, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if width := int(bits[start]):
            codes, scales, minimums = quantizers.codes(weight[start:stop], width, columns)
            table.codes[start:stop] = codes
            table.scales[place], table.minimums[place] = scales, minimums
    return table
