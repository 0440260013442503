"""Packs and reads stored tables the slow, obvious way: one Python integer per row, one element at a time."""

from dataclasses import dataclass

import numpy as np


def pack_row(codes, bits: int, layout: str) -> bytes:
    """Return the bytes of one row of unsigned codes, straight from the words of docs/artifact-format.md."""
    if bits == 0:
        return b""
    dim = len(codes)
    if layout == "stream":
        packed = sum(int(u) << (i * bits) for i, u in enumerate(codes))
        return packed.to_bytes((dim * bits + 7) // 8, "little")
    plane_bytes = (dim + 7) // 8
    out = bytearray(bits * plane_bytes)
    for plane in range(bits):
        for i, u in enumerate(codes):
            out[plane * plane_bytes + i // 8] |= (int(u) >> plane & 1) << (i % 8)
    return bytes(out)


def unpack_row(data: bytes, bits: int, layout: str, dim: int) -> list[int]:
    """Return the `dim` unsigned codes that `pack_row` packed."""
    if layout == "stream":
        packed = int.from_bytes(data, "little")
        return [packed >> (i * bits) & (2**bits - 1) for i in range(dim)]
    plane_bytes = (dim + 7) // 8
    return [
        sum((data[plane * plane_bytes + i // 8] >> (i % 8) & 1) << plane for plane in range(bits))
        for i in range(dim)
    ]


@dataclass
class PackedTable:
    """A random packed table: its bytes, and the float32 rows that they stand for."""

    codes: np.ndarray
    segments: list[tuple[int, int, int, int]]
    scales: np.ndarray | None
    minimums: np.ndarray | None
    values: np.ndarray


def packed_table(rng, segment_rows: dict[int, int], dim: int, layout: str, scale: str) -> PackedTable:
    """Return a table with one segment (bits, start_row, rows, byte_base) per entry of `segment_rows`."""
    data = bytearray()
    segments = []
    rows = []
    scale_rows = len(segment_rows) if scale == "segment" else 1
    column_scales = rng.normal(size=(scale_rows, dim)).astype(np.float32)
    column_minimums = rng.normal(size=(scale_rows, dim)).astype(np.float32)
    for place, (bits, count) in enumerate(segment_rows.items()):
        segments.append((bits, len(rows), count, len(data)))
        for _ in range(count):
            if bits == 0:
                rows.append(np.zeros(dim, np.float32))
                continue
            codes = rng.integers(0, 2**bits, dim)
            data += pack_row(codes, bits, layout)
            scales, minimums = column_scales[place % scale_rows], column_minimums[place % scale_rows]
            if scale == "row":
                pair = rng.normal(size=2).astype(np.float16)
                data += pair.tobytes()
                scales, minimums = pair.astype(np.float32)
            rows.append(scales * codes.astype(np.float32) + minimums)
    per_column = scale != "row"
    return PackedTable(
        codes=np.frombuffer(bytes(data), np.uint8),
        segments=segments,
        scales=column_scales if per_column else None,
        minimums=column_minimums if per_column else None,
        values=np.array(rows, np.float32),
    )


def int8_row_table(rng, rows: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes uint8 (rows, dim + 4) and the float32 rows that they stand for."""
    signed = rng.integers(-128, 128, (rows, dim)).astype(np.int8)
    pairs = rng.normal(size=(rows, 2)).astype(np.float16)
    values = pairs[:, :1].astype(np.float32) * (signed.astype(np.float32) + 128) + pairs[:, 1:].astype(
        np.float32
    )
    return np.concatenate([signed.view(np.uint8), pairs.view(np.uint8)], axis=1), values


def pool(values: np.ndarray, ids, pooling: str) -> np.ndarray:
    """Return the pooled row of one bag, adding in the order of the bag in float32."""
    total = values[ids[0]].copy()
    for row in ids[1:]:
        total += values[row]
    return total / np.float32(len(ids)) if pooling == "mean" else total


def masked_table(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the bytes of a masked table, value by value, straight from the words of docs/artifact-format.md."""
    index, stored, count = bytearray(), bytearray(), 0
    for row, (line, mask) in enumerate(zip(values, kept, strict=True)):
        if row % 16 == 0:
            index += count.to_bytes(4, "little")
        index += sum(1 << j for j, keep in enumerate(mask) if keep).to_bytes(-(-len(mask) // 8), "little")
        for value, keep in zip(line, mask, strict=True):
            if keep:
                stored += value.tobytes()
                count += 1
    return np.frombuffer(bytes(index + stored), np.uint8)
