"""One table of codecs: whatever a manifest may name has bytes, bits and a reader."""

from pathlib import Path
from typing import get_args

import pytest
from artifacts import build_artifact

from model_store import codecs
from model_store.codecs import CODEC_KEYS, CODECS, CodecName, check_keys
from model_store.manifest import Segment, Table
from model_store.store import ModelStore
from service.model_metrics import make_of, table_bytes
from slimctr.native.lookup import _CODECS as KERNEL_CODECS

ROWS, DIM = 35, 6
KEYS = {
    "quotient_remainder": {"divisor": 8, "combine": "sum"},
    "masked_float32": {"kept": 40},
    "masked_float16": {"kept": 40},
    "packed": {
        "layout": "planes",
        "scale": "row",
        "segments": [
            Segment(bits=4, start_row=0, rows=30, byte_base=0),
            Segment(bits=0, start_row=30, rows=5, byte_base=240),
        ],
    },
}
# By hand from docs/artifact-format.md: codes of ROWS rows of DIM values, and the widths of the values.
BYTES = {
    "float32": (35 * 6 * 4, {32}),
    "float16": (35 * 6 * 2, {16}),
    "int8_row": (35 * (6 + 4), {8}),
    "packed": (30 * (4 * 1 + 4), {4, 0}),
    "quotient_remainder": ((5 + 8) * 6 * 4, {32}),
    "masked_float32": (3 * 4 + 35 * 1 + 40 * 4, {32}),
    "masked_float16": (3 * 4 + 35 * 1 + 40 * 2, {16}),
}


def table(codec: str, **keys: object) -> Table:
    named = {
        "field": "f",
        "role": "embedding",
        "codec": codec,
        "codes": "c",
        "rows": ROWS,
        "dim": DIM,
        "column": 0,
    }
    return Table.model_validate({**named, **keys})


def test_the_table_of_codecs_is_complete() -> None:
    assert set(get_args(CodecName)) == CODECS.keys() == BYTES.keys()
    layouts = get_args(codecs.Layout)
    assert set(KERNEL_CODECS) == (CODECS.keys() - {"packed"}) | set(layouts)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_has_bytes_and_bits(codec: str) -> None:
    found = table(codec, **KEYS.get(codec, {}))
    assert (found.codes_bytes, found.value_bits) == BYTES[codec]


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_has_the_keys_that_it_needs_and_no_others(codec: str) -> None:
    needs = CODECS[codec].needs  # type: ignore[index]
    check_keys(codec, needs)  # type: ignore[arg-type]
    for key in needs:
        with pytest.raises(ValueError, match=f"codec '{codec}' needs {key}"):
            check_keys(codec, needs - {key})  # type: ignore[arg-type]
    for key in CODEC_KEYS - needs - CODECS[codec].allows:  # type: ignore[index]
        with pytest.raises(ValueError, match=f"codec '{codec}' takes no {key}"):
            check_keys(codec, needs | {key})  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
def test_metrics_know_every_codec(codec: str, tmp_path: Path) -> None:
    build_artifact(tmp_path)
    tables = (table(codec, **KEYS.get(codec, {})),)
    manifest = ModelStore(tmp_path).manifest("ctr", 1).model_copy(update={"tables": tables})
    assert make_of(manifest)["codec"] == codec
    assert make_of(manifest)["bits"] == "+".join(map(str, sorted(BYTES[codec][1])))
    assert table_bytes(manifest) == {("f", codec): BYTES[codec][0]}
