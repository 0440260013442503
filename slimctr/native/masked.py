"""Layout of tables that keep single values behind masks (docs/artifact-format.md): the check of an index."""

from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.codecs import BLOCK_ROWS, OFFSET_BYTES, mask_bytes

_CHECK_BLOCKS = 65_536


def check_index(codes: npt.NDArray[np.uint8], rows: int, dim: int, kept: int) -> None:
    """Raise ValueError unless the index that begins `codes` (n,) leads to values 0 .. kept-1, each exactly once.

    Every offset must be the number of values that the masks before its block keep, and masks keep nothing beyond
    column `dim`.
    """
    row_bytes = mask_bytes(dim)
    block_bytes = OFFSET_BYTES + BLOCK_ROWS * row_bytes
    whole, rest = divmod(rows, BLOCK_ROWS)
    found = 0
    for first in range(0, whole, _CHECK_BLOCKS):
        last = min(first + _CHECK_BLOCKS, whole)
        blocks = codes[first * block_bytes : last * block_bytes].reshape(last - first, block_bytes)
        found = _checked(blocks, dim, found, first * BLOCK_ROWS)
    if rest:
        end = whole * block_bytes + OFFSET_BYTES + rest * row_bytes
        found = _checked(codes[whole * block_bytes : end].reshape(1, -1), dim, found, whole * BLOCK_ROWS)
    if found != kept:
        raise ValueError(f"its masks keep {found} values, {kept} are stored")


def _checked(blocks: npt.NDArray[np.uint8], dim: int, before: int, first_row: int) -> int:
    """Check blocks (n, bytes) that follow `before` kept values; return how many there are after them."""
    masks = blocks[:, OFFSET_BYTES:]
    last_bytes = masks.reshape(len(blocks), -1, mask_bytes(dim))[:, :, -1]
    if dim % 8 and np.any(last_bytes >> (dim % 8)):
        raise ValueError(f"a mask near row {first_row} keeps a value beyond column {dim}")
    counts: npt.NDArray[Any] = np.bitwise_count(masks).sum(axis=1, dtype=np.int64)
    ends = before + np.cumsum(counts)
    offsets = np.ascontiguousarray(blocks[:, :OFFSET_BYTES]).view("<u4")[:, 0]
    if wrong := np.flatnonzero(offsets != ends - counts).tolist():
        row = first_row + wrong[0] * BLOCK_ROWS
        raise ValueError(f"the offset of row {row} is {offsets[wrong[0]]}, not {(ends - counts)[wrong[0]]}")
    return int(ends[-1])
