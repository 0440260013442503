"""A file of another kind is refused in a sentence that says what it seems to be and what to do."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.clicklogs.tabular import CsvLog, ParquetLog
from slimctr.errors import ConfigError, LogFormatError

TEXT = "click,user,item\n" + "1,u1,3\n0,u2,4\n" * 50
TABLE = pa.table({"click": [1, 0], "user": ["a", "b"]})


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(TABLE, stream)
    return stream.getvalue()


def feather() -> bytes:
    stream = io.BytesIO()
    pyarrow.feather.write_feather(TABLE, stream)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("train.csv", TEXT)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        entry = tarfile.TarInfo("train.csv")
        entry.size = len(TEXT)
        archive.addfile(entry, io.BytesIO(TEXT.encode()))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("log.csv", lzma.compress(TEXT.encode()), "compressed with xz: unpack it"),
        ("log.csv", pa.compress(TEXT.encode(), codec="lz4", asbytes=True), "compressed with lz4: unpack it"),
        ("log.csv", zipped(), "a zip archive"),
        ("log.csv", tarred(), "Is it binary"),
        ("log.csv", gzip.compress(gzip.compress(TEXT.encode())), "compressed as a whole"),
        ("log.csv", TEXT.encode("utf-16"), "UTF-16 text: write it in UTF-8"),
        ("log.csv", TEXT.encode("utf-16-le"), "UTF-16"),
        ("log.csv", parquet(), "--format parquet"),
        ("log.csv", TEXT.replace(",", ";"), "separated by semicolons"),
        ("log.csv", TEXT.replace(",", "|"), "separated by bars"),
        ("log.csv", TEXT.replace(",", "\t"), "separated by tabs"),
        ("log.csv", TEXT.replace(",", "\x01"), r"click\x01user\x01item"),
        ("log.csv", "\t".join(["1"] * 40), "--format criteo"),
        ("log.tsv", '"click"\t"user"\n"1"\t"u1"\n', "knows no quotes"),
        ("log.csv", '{"click": 1, "user": "u1"}\n', "It looks like JSON"),
        ("log.csv", '{"click":1,"user":"u1"}\n', "It looks like JSON"),
        ("log.csv", 'click,"user"s,item\n', "names of the columns"),
        ("log.csv", "0,10,0,10\n", "occurs twice. A column has a name of its own"),
        ("log.parquet", gzip.compress(parquet()), "compressed as a whole: unpack it"),
        ("log.parquet", bz2.compress(parquet()), "compressed as a whole: unpack it"),
        ("log.parquet", feather(), "an Arrow (Feather) file"),
        ("log.parquet", TEXT, "no Parquet file"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_it_is(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    reader = ParquetLog if name.endswith(".parquet") else CsvLog
    with pytest.raises(LogFormatError) as refused:
        reader(path)
    assert told in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["", "user.id", "user id", "1st", "_user", "Köln", "n" * 65, "scores"])
def test_a_column_whose_name_no_field_can_have_is_refused_with_what_to_do(write, name):
    path = write("log.csv", f"click,{name},item\n1,u1,3\n")
    with pytest.raises(ConfigError, match=r"Rename the columns.*--schema"):
        CsvLog(path).infer_schema()
    assert ("pandas writes its index" in _problem(path)) == (name == "")


def test_of_many_wrong_names_the_first_are_told(write):
    names = ",".join(f"a.{number}" for number in range(3000))
    assert len(_problem(write("log.csv", f"click,{names}\n"))) < 1000


def _problem(path) -> str:
    with pytest.raises(ConfigError) as refused:
        CsvLog(path).infer_schema()
    return str(refused.value)


def test_the_unnamed_index_of_a_data_frame_is_no_field_of_its_parquet_file(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"click": [1, 0, 1], "user": ["a", "b", "c"]}, index=[7, 3, 5])
    frame.to_parquet(tmp_path / "log.parquet")
    log = ParquetLog(tmp_path / "log.parquet")
    assert log.infer_schema().names == ("user",)
    assert log.left_out == ("__index_level_0__",)
    frame.rename_axis("item").to_parquet(tmp_path / "log.parquet")
    assert ParquetLog(tmp_path / "log.parquet").infer_schema().names == ("user", "item")


@pytest.mark.parametrize("suffix", [".CSV", ".Csv.GZ"])
def test_the_case_of_a_suffix_says_nothing(write, tmp_path, suffix):
    for split in ("Train", "VALID", "test"):
        write(f"log/{split}{suffix}", TEXT)
    assert (
        prepare(PrepareSettings("csv", tmp_path / "log"), tmp_path / "out").info["splits"]["test"]["rows"]
        == 100
    )
    assert CsvLog(write("log.TSV", TEXT.replace(",", "\t"))).infer_schema().names == ("user", "item")


def test_text_of_any_length_that_is_not_utf8_is_shown_by_its_beginning(write, read_log):
    reading = read_log(CsvLog(write("log.csv", b"click,user\n1," + b"\xff" * 100_000 + b"\n0,a\n")))
    [(line, detail)] = reading.refused
    assert line == 2
    assert len(detail) < 400
    assert detail.endswith("Write the log in UTF-8")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ('"a"', "stand in quotes"),
        ("'a'", "stand in quotes"),
        (" a", "begin or end with a space"),
        ("a ", "begin or end with a space"),
        (r"\N", "text like any other"),
        ("NULL", "text like any other"),
        ("<NA>", "text like any other"),
        ("3.0", "count as '3'"),
    ],
)
@pytest.mark.parametrize("hashed", [{}, {"user": 100}])
def test_values_that_are_not_what_they_seem_are_said(write, tmp_path, cell, told, hashed):
    path = write("log.tsv", "click\tuser\n" + f"1\t{cell}\n0\tb\n" * 50)
    dataset = prepare(PrepareSettings("csv", path, hash_rows=hashed), tmp_path / "out")
    [warning] = dataset.info["warnings"]
    assert warning.startswith("field 'user': ")
    assert repr(cell) in warning
    assert told in warning
    [number] = dataset.encoder().encode_columns({"user": [cell]}).ids[0]
    assert number != 0


@pytest.mark.parametrize("cell", ["a", '"', "'", "a b", "Nullstadt", "none-such", "nano", '"a" b', "0.50"])
def test_other_values_are_not_talked_about(write, tmp_path, cell):
    path = write("log.tsv", "click\tuser\n" + f"1\t{cell}\n0\tb\n" * 50)
    assert prepare(PrepareSettings("csv", path), tmp_path / "out").info["warnings"] == []
