"""How tables are stored: the one table of codecs, what each needs in the manifest, and the bytes of what it stores.

docs/artifact-format.md describes the layouts. A new codec is an entry here, a reader in `slimctr.scoring.tables` and a
kernel in `slimctr.native`; everything that counts or shows bytes asks this module.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

CodecName = Literal[
    "float32", "float16", "int8_row", "packed", "quotient_remainder", "masked_float32", "masked_float16"
]
Layout = Literal["planes", "stream"]

ROW_SCALE_BYTES = 4
"""Scale and minimum of a row as float16, behind its codes."""

BLOCK_ROWS = 16
"""Rows of a masked table that share an offset."""

OFFSET_BYTES = 4
"""Bytes of the offset of a block of a masked table."""


@dataclass(frozen=True)
class Codec:
    """One way to store a table.

    `dtype` is the numpy name of a stored value, `value_bits` what it takes; a packed table says the bits of its codes
    itself, segment by segment. `needs` are the keys of a table in the manifest that the codec must have, `allows` those
    that it may have besides; all other keys of codecs must be absent.
    """

    dtype: Literal["float32", "float16", "uint8"]
    value_bits: int | None
    needs: frozenset[str] = frozenset()
    allows: frozenset[str] = frozenset()
    row_scale_bytes: int = 0


CODECS: Mapping[CodecName, Codec] = {
    "float32": Codec("float32", 32),
    "float16": Codec("float16", 16),
    "int8_row": Codec("uint8", 8, row_scale_bytes=ROW_SCALE_BYTES),
    "packed": Codec(
        "uint8", None, frozenset({"layout", "scale"}), frozenset({"scales", "minimums", "segments"})
    ),
    "quotient_remainder": Codec("float32", 32, frozenset({"divisor", "combine"})),
    "masked_float32": Codec("float32", 32, frozenset({"kept"})),
    "masked_float16": Codec("float16", 16, frozenset({"kept"})),
}
CODEC_KEYS = frozenset().union(*(codec.needs | codec.allows for codec in CODECS.values()))
"""Keys of a table in the manifest that belong to some codec."""


def check_keys(codec: CodecName, given: Collection[str]) -> None:
    """Raise ValueError unless `given`, keys of a table that have a value, are what `codec` needs and allows."""
    entry = CODECS[codec]
    if missing := sorted(entry.needs - set(given)):
        raise ValueError(f"codec '{codec}' needs {' and '.join(missing)}")
    if odd := sorted((CODEC_KEYS & set(given)) - entry.needs - entry.allows):
        raise ValueError(f"codec '{codec}' takes no {' and no '.join(odd)}")


def record_bytes(codec: CodecName, dim: int) -> int:
    """Return the bytes of one record of a codec whose records are alike: `dim` values, and its scale if it has one."""
    entry = CODECS[codec]
    if entry.value_bits is None or "kept" in entry.needs:
        raise ValueError(f"records of codec '{codec}' differ in their bytes")
    return dim * entry.value_bits // 8 + entry.row_scale_bytes


def packed_record_bytes(layout: Layout, bits: int, dim: int, row_scale: bool) -> int:
    """Return the bytes of one packed record; a row of 0 bits has none."""
    if bits == 0:
        return 0
    code_bytes = bits * ((dim + 7) // 8) if layout == "planes" else (dim * bits + 7) // 8
    return code_bytes + (ROW_SCALE_BYTES if row_scale else 0)


def divided_rows(rows: int, divisor: int) -> int:
    """Return how many rows quotients and remainders of a table take together."""
    return -(-rows // divisor) + divisor


def mask_bytes(dim: int) -> int:
    """Return the bytes of the mask of one row."""
    return -(-dim // 8)


def index_bytes(rows: int, dim: int) -> int:
    """Return the bytes of the offsets and masks of a table."""
    return OFFSET_BYTES * -(-rows // BLOCK_ROWS) + rows * mask_bytes(dim)


def masked_bytes(rows: int, dim: int, kept: int, value_bits: int) -> int:
    """Return the bytes of a table of which `kept` values are stored."""
    return index_bytes(rows, dim) + kept * value_bits // 8
