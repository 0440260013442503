"""Byte layouts of compressed tables: bit planes, streams, records, masks with values (docs/artifact-format.md)."""

import numpy as np
from numpy.typing import NDArray

from model_store.codecs import BLOCK_ROWS, Layout, index_bytes, packed_record_bytes

_PACK_ROWS = 65_536


def default_layout(dim: int, bits: int) -> Layout:
    """The layout of fewest bytes: `stream`, or `planes` where both take as many.

    Eight bits are whole bytes in a stream, which is the quickest to read.
    """
    return "planes" if dim % 8 == 0 and bits < 8 else "stream"


def row_bytes(dim: int, bits: int, layout: Layout) -> int:
    """Bytes of the codes of one row, scales not counted."""
    return packed_record_bytes(layout, bits, dim, row_scale=False)


def pack_codes(codes: NDArray[np.uint8], bits: int, layout: Layout) -> NDArray[np.uint8]:
    """Pack unsigned codes (N, d), each below 2^bits, into rows of bytes (N, row_bytes).

    Raises ValueError for a code that does not fit.
    """
    values = np.asarray(codes, dtype=np.uint8)
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be 1..8, got {bits}")
    if values.size and int(values.max()) >= 2**bits:
        raise ValueError(f"code {int(values.max())} does not fit {bits} bits")
    packed = np.empty((len(values), row_bytes(values.shape[1], bits, layout)), dtype=np.uint8)
    for start in range(0, len(values), _PACK_ROWS):
        block = values[start : start + _PACK_ROWS]
        digits = (
            block[:, :, None] >> np.arange(bits, dtype=np.uint8)
        ) & 1  # (n, d, bits), least significant first
        if layout == "planes":
            planes = np.packbits(digits.transpose(0, 2, 1), axis=2, bitorder="little")
            packed[start : start + len(block)] = planes.reshape(len(block), -1)
        else:
            flat = digits.reshape(len(block), -1)
            packed[start : start + len(block)] = np.packbits(flat, axis=1, bitorder="little")
    return packed


def unpack_codes(packed: NDArray[np.uint8], dim: int, bits: int, layout: Layout) -> NDArray[np.uint8]:
    """Unsigned codes (N, d) of packed rows (N, row_bytes); the inverse of `pack_codes`."""
    rows = np.asarray(packed, dtype=np.uint8)
    expected = row_bytes(dim, bits, layout)
    if rows.shape[1] != expected:
        raise ValueError(f"{dim} codes of {bits} bits take {expected} bytes a row, got {rows.shape[1]}")
    flat = np.unpackbits(rows, axis=1, bitorder="little")
    if layout == "planes":
        digits = flat.reshape(len(rows), bits, -1)[:, :, :dim].transpose(0, 2, 1)
    else:
        digits = flat[:, : dim * bits].reshape(len(rows), dim, bits)
    return (digits << np.arange(bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint8)


def with_row_affine(
    codes: NDArray[np.uint8], scales: NDArray[np.float16], minimums: NDArray[np.float16]
) -> NDArray[np.uint8]:
    """Append scale and minimum (little-endian float16) to every row: one record per row (N, bytes + 4)."""
    tail = np.stack([scales, minimums], axis=1).astype("<f2").view(np.uint8)
    return np.ascontiguousarray(np.concatenate([codes, tail], axis=1))


def int8_row_records(
    codes: NDArray[np.uint8], scales: NDArray[np.float16], minimums: NDArray[np.float16]
) -> NDArray[np.uint8]:
    """Records of the `int8_row` codec (N, d + 4): signed bytes code - 128, scale, minimum."""
    signed = (codes.astype(np.int16) - 128).astype(np.int8).view(np.uint8)
    return with_row_affine(signed, scales, minimums)


def masked_codes(masks: NDArray[np.uint8], values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return offsets and masks (N, bytes) in blocks of rows, then the kept values (K,): uint8 (n,).

    Raises ValueError for more values than offsets can count.
    """
    if values.size >= 2**32:
        raise ValueError(f"{values.size} kept values; offsets of 32 bits count fewer than 2^32")
    rows, width = masks.shape
    counts = np.bitwise_count(masks).sum(axis=1, dtype=np.int64)
    offsets = (np.cumsum(counts) - counts)[::BLOCK_ROWS].astype("<u4")
    padded = np.zeros((len(offsets) * BLOCK_ROWS, width), np.uint8)
    padded[:rows] = masks
    blocks = np.concatenate([offsets.view(np.uint8).reshape(-1, 4), padded.reshape(len(offsets), -1)], axis=1)
    return np.concatenate([blocks.reshape(-1)[: index_bytes(rows, 8 * width)], values.view(np.uint8)])
