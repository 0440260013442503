"""What a table holds is what csv, TSV and libFM files of it read as, wherever the blocks of a file end."""

import bz2
import csv
import gzip
import io
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimctr.clicklogs.libfm import LibfmLog
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.tabular import MISSING_CELLS, CsvLog

TEXT = st.text(
    st.one_of(st.sampled_from('",\t\r\n ;|"\'\\\0é'), st.characters(exclude_categories=["Cs"])), max_size=8
)
LINE_ENDS = ("\n", "\r\n", "\r")
BYTE_ORDER_MARK = "\ufeff"
relaxed = settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def tables(cells: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[int, str, str]]]:
    return st.lists(st.tuples(st.integers(0, 1), cells, cells), min_size=1, max_size=6)


def read(log: CsvLog | LibfmLog, errors: ParseErrors) -> list[tuple]:
    batches = list(log.batches(log.infer_schema(), errors))
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def read_in_blocks(path: Path, block: int, batch_rows: int = 1 << 16) -> tuple[list[tuple], list]:
    errors = ParseErrors()
    with (
        patch("slimctr.clicklogs.delimited.BLOCK_BYTES", block),
        patch("slimctr.clicklogs.delimited.BATCH_ROWS", batch_rows),
    ):
        return read(CsvLog(path), errors), [(example.line, example.detail) for example in errors.examples]


def expected(table: list[tuple[int, str, str]]) -> list[tuple]:
    return [(label, *(None if cell in MISSING_CELLS else cell for cell in cells)) for label, *cells in table]


@given(
    tables(TEXT),
    st.sampled_from(LINE_ENDS),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_MINIMAL]),
    st.sampled_from(["", BYTE_ORDER_MARK]),
    st.integers(0, 3),
    st.integers(1, 40),
    st.integers(1, 3),
)
@relaxed
def test_csv_cells_survive_in_every_dialect(tmp_path, table, end, quoting, mark, blank, block, batch_rows):
    if quoting == csv.QUOTE_MINIMAL:
        # Python's writer does not quote the line ends that it does not write itself.
        other = "\r\n".translate(dict.fromkeys(map(ord, end)))
        table = [
            (label, *(cell.translate(dict.fromkeys(map(ord, other))) for cell in cells))
            for label, *cells in table
        ]
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, lineterminator=end)
    writer.writerows([("label", "a", "b"), *table])
    path = tmp_path / "log.csv"
    path.write_bytes((mark + out.getvalue() + end * blank).encode())
    assert read_in_blocks(path, block, batch_rows) == (expected(table), [])


@given(
    tables(TEXT.map(lambda cell: cell.translate(dict.fromkeys(map(ord, "\t\r\n"))))),
    st.sampled_from(LINE_ENDS),
    st.booleans(),
    st.integers(1, 40),
)
@relaxed
def test_tsv_cells_survive_and_a_quote_is_an_ordinary_character(tmp_path, table, end, is_ended, block):
    lines = ["label\ta\tb", *("\t".join(map(str, row)) for row in table)]
    path = tmp_path / "log.tsv"
    path.write_bytes((end.join(lines) + end * is_ended).encode())
    assert read_in_blocks(path, block) == (expected(table), [])


BAD_ROWS = {
    '1,"a" b,c': "text follows the closing quote",
    '1,a,"b"c': "text follows the closing quote",
    "1,a": "2 cells instead of 3",
    "1,a,b,c": "4 cells instead of 3",
    '1,"a\nb"': "2 cells instead of 3 (the row goes on over 2 lines)",
    "2,a,b": "label '2'",
    ",a,b": "the label is missing",
}


@given(
    st.lists(
        st.one_of(tables(TEXT).map(lambda rows: rows[0]), st.sampled_from(sorted(BAD_ROWS))), max_size=6
    ),
    st.sampled_from(LINE_ENDS),
    st.integers(1, 40),
)
@relaxed
def test_a_row_that_does_not_survive_is_refused_by_its_line(tmp_path, parts, end, block):
    text, line, rows, refused = f"label,a,b{end}", 2, [], []
    for part in [*parts, (1, "x", "y")]:
        out = io.StringIO(newline="")
        if isinstance(part, str):
            out.write(part.replace("\n", end))
            refused.append((line, BAD_ROWS[part]))
        else:
            csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="").writerow(part)
            rows.append(part)
        text += out.getvalue() + end
        line += len(out.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode())
    read_rows, found = read_in_blocks(path, block)
    assert read_rows == expected(rows)
    assert [number for number, _ in sorted(found)] == [number for number, _ in refused]
    for (_, detail), (_, start) in zip(sorted(found), refused, strict=True):
        assert detail.startswith(start)


NASTY = (
    'label,a\r\n1,"x\r\ny"\r\n0,"""q"""\r\n\r\n1,"a" b\r\n0,"a\rb\nc"\r1,é\n0,"open\r\nand more\r\n'.encode()
)


@pytest.mark.parametrize("block", range(1, len(NASTY) + 1))
def test_the_edge_of_a_block_is_like_any_place(tmp_path, block):
    path = tmp_path / "log.csv"
    path.write_bytes(NASTY)
    rows, refused = read_in_blocks(path, block)
    assert rows == [(1, "x\r\ny"), (0, '"q"'), (0, "a\rb\nc"), (1, "é")]
    assert sorted(refused) == [
        (6, 'text follows the closing quote of a cell: double the quotes inside a quoted cell ("")'),
        (11, "a quote is opened and never closed (the row goes on over 2 lines)"),
    ]


@pytest.mark.parametrize("block", [1, 7, 100, 8 << 20])
def test_a_stray_quote_costs_its_line_however_long_the_log_goes_on(tmp_path, block):
    path = tmp_path / "log.csv"
    path.write_text('label,a\n1,"x\n' + "0,y\n" * 40)
    with patch("slimctr.clicklogs.delimited.MAX_RECORD_BYTES", 64):
        rows, refused = read_in_blocks(path, block)
    assert rows == [(0, "y")] * 40
    assert refused == [(2, "a quote is opened and never closed")]


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("block", [1, 30, 1000])
def test_a_line_without_measure_is_refused_by_its_number(tmp_path, block, ending):
    from slimctr.errors import LogFormatError

    path = tmp_path / "log.csv"
    path.write_text("label,a\n1,x\n1," + "y" * 100 + ending)
    with (
        patch("slimctr.clicklogs.delimited.MAX_RECORD_BYTES", 64),
        pytest.raises(LogFormatError, match="line 3: the line is longer than 64 bytes"),
    ):
        read_in_blocks(path, block)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=8),
    st.lists(st.sampled_from(LINE_ENDS), min_size=9, max_size=9),
    st.sampled_from(["", BYTE_ORDER_MARK]),
    st.integers(1, 40),
)
@relaxed
def test_libfm_rows_survive_with_every_line_end_and_a_byte_order_mark(tmp_path, table, ends, mark, block):
    path = tmp_path / "log.libfm"
    lines = (f"{label} {a}:1 {b}:1{end}" for (label, a, b), end in zip(table, ends, strict=False))
    path.write_bytes((mark + "".join(lines)).encode())
    errors = ParseErrors()
    with patch("slimctr.clicklogs.libfm.BLOCK_BYTES", block):
        assert read(LibfmLog(path), errors) == [(label, str(a), str(b)) for label, a, b in table]
    assert errors.count == 0


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, zstd])
def test_compression_is_known_by_content_and_parts_may_follow_each_other(tmp_path, compress):
    path = tmp_path / "log.csv"
    first, second = (compress(part) for part in (b"label,a\n1,x\n", b"0,y\n"))
    path.write_bytes(first + second)
    assert read_in_blocks(path, 5) == ([(1, "x"), (0, "y")], [])
