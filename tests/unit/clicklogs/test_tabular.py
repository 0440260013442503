import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimctr.clicklogs.tabular import CsvLog, ParquetLog
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import Bucketing, FeatureSchema, Field


def schema_of(*fields: Field) -> FeatureSchema:
    return FeatureSchema(fields=fields)


def category(name: str, **settings) -> Field:
    return Field(name=name, kind="categorical", **settings)


def number(name: str, **settings) -> Field:
    return Field(name=name, kind="numeric", bucketing=Bucketing(kind="log_squared"), **settings)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_every_compression_and_line_end(write, read_log, suffix, line_end):
    text = line_end.join(["label,user,city", "1,7,Köln", "0,8,", '1,9,"a,""b"""', ""])
    reading = read_log(CsvLog(write(f"train.csv{suffix}", text)))
    assert reading.rows == {"label": [1, 0, 1], "user": ["7", "8", "9"], "city": ["Köln", None, 'a,"b"']}


def test_byte_order_mark_nan_and_blank_lines(write, read_log):
    path = write("train.csv", b"\xef\xbb\xbfclick,a\r\n1,NaN\r\n\r\n0,nan\r\n1,NULL\r\n\r\n")
    reading = read_log(CsvLog(path))
    assert reading.rows == {"label": [1, 0, 1], "a": [None, None, "NULL"]}
    assert reading.errors.count == 0


def test_tsv_is_tab_separated(write, read_log):
    assert read_log(CsvLog(write("train.tsv.gz", "clicked\ta\n1\tx,y\n"))).rows == {
        "label": [1],
        "a": ["x,y"],
    }


@pytest.mark.parametrize(
    ("text", "clicked"),
    [
        *[("1", 1), ("0", 0), ("-1", 0), ("+1", 1), ("1.0", 1), ("0.0", 0), ("true", 1), ("false", 0)],
        *[("1.0000e+00", 1), ("0.0000e+00", 0), ("-0", 0), ("-0.0", 0), ("01", 1), ("1.", 1), (".0", 0)],
        *[("10e-1", 1), ("1E0", 1), ("0e99", 0), ("True", 1), ("False", 0), ("TRUE", 1), ("-1.000e0", 0)],
    ],
)
def test_a_label_is_a_number_equal_to_0_or_1(write, read_log, text, clicked):
    assert read_log(CsvLog(write("train.csv", f"label,a\n{text},x\n"))).rows["label"] == [clicked]


@pytest.mark.parametrize(
    "text",
    [
        *[
            "2",
            "0.5",
            "1.0000000000000000001",
            "1e-400",
            "yes",
            "t",
            "nan",
            "inf",
            "0x1",
            "1_0",
            " 1",
            "--1",
            "1e",
            "١",
        ],
        *["1e999999999999", "1e-99999999999999999999", "1e99999999999999999999"],
    ],
)
def test_any_other_label_refuses_its_row(write, read_log, text):
    reading = read_log(CsvLog(write("train.csv", f"label,a\n1,x\n{text},x\n")))
    assert reading.rows["label"] == [1]
    assert [number for number, _ in reading.refused] == [3]


def test_refused_lines_keep_their_numbers(write, read_log):
    lines = ["a,label", "x,1", "x", "x,2", "", "x,", "x,0,0", b"\xff\xfe,1", "x,1", "x,1"]
    path = write(
        "train.csv", b"\n".join(part if isinstance(part, bytes) else part.encode() for part in lines)
    )
    reading = read_log(CsvLog(path))
    assert reading.rows["label"] == [1, 1, 1]
    assert sorted(reading.refused) == [
        (3, "1 cells instead of 2"),
        (4, "label '2' is neither 0 nor 1 (nor -1, true or false)"),
        (6, "the label is missing"),
        (7, "3 cells instead of 2"),
        (8, r"column 'a' is not UTF-8 text: b'\xff\xfe'. Write the log in UTF-8"),
    ]


def test_line_numbers_are_right_in_later_blocks(write, read_log, monkeypatch):
    monkeypatch.setattr("slimctr.clicklogs.delimited.BLOCK_BYTES", 64)
    wrong = {17, 18, 40, 77, 200}
    cells = ["1" if number in wrong else "?,1" if number == 300 else "0,1" for number in range(2, 400)]
    reading = read_log(CsvLog(write("train.csv", "label,a\n" + "\n".join(cells) + "\n")))
    assert sorted(number for number, _ in reading.refused) == [17, 18, 40, 77, 200, 300]


def test_an_unclosed_quote_is_one_error_that_says_how_far_it_reaches(write, read_log):
    schema = schema_of(category("a"))
    for text in ('label,a,b\n1,x,y\n1,"y,z\n0,z,z\n', 'label,a,b\n1,x,y\n1,y,"z\n0,z,z\n'):
        reading = read_log(CsvLog(write("train.csv", text)), schema)
        assert reading.rows["a"] == ["x"]
        [(number, detail)] = reading.refused
        assert number == 3
        assert detail == "a quote is opened and never closed (the row goes on over 2 lines)"


def test_only_the_first_errors_are_kept(write, read_log):
    reading = read_log(CsvLog(write("train.csv", "label,a\n" + "?,1\n" * 50)))
    assert reading.errors.count == 50
    assert [number for number, _ in reading.refused] == list(range(2, 22))


def test_numeric_required_and_multivalued_fields(write, read_log):
    schema = schema_of(number("price"), category("user", required=True), category("tags", multivalued=True))
    good = "label,price,user,tags,ignored\n1,+2.5,u,a|b,z\n0,,u,,z\n"
    text = good + "1,abc,u,a,z\n1,inf,u,a,z\n1,1_0,u,a,z\n0,3,,a,z\n1,+-3,u,a,z\n"
    reading = read_log(CsvLog(write("train.csv", text)), schema)
    assert reading.rows == {
        "label": [1, 0],
        "price": ["+2.5", None],
        "user": ["u", "u"],
        "tags": [["a", "b"], None],
    }
    assert [number for number, _ in reading.refused] == [4, 5, 6, 7, 8]
    assert reading.refused[-2][1] == "required field 'user' has no value"


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        ("user,item\n1,2\n", None, "no label column .*label, click, clicked among user, item"),
        ("label,item\n1,2\n", "clicks", "looked for 'clicks'"),
        ("label,a,a\n1,2,2\n", None, "column a occurs twice"),
        ("label,a, a\n1,2,2\n", None, "column a occurs twice"),
        ('label,"a" b\n1,2\n', None, "the header line is no csv"),
        ('label,"a\nb"\n1,2\n', None, "the header line is no csv"),
        (
            "label,click,a\n1,0,2\n",
            None,
            "label and click, and each could be the label: name it with --label",
        ),
        ("", None, "is empty"),
    ],
)
def test_unusable_headers(write, text, label, message):
    with pytest.raises(LogFormatError, match=message):
        CsvLog(write("train.csv", text), label)


def test_names_may_have_spaces_around_them_and_the_label_may_be_chosen(write, read_log):
    path = write("train.csv", 'label, click ," a"\n1,0, x \n')
    log = CsvLog(path, "click")
    assert read_log(log).rows == {"label": [0], "a": [" x "]}
    assert log.left_out == ("label",)


def test_a_column_name_that_is_no_field_name_is_named(write):
    with pytest.raises(ConfigError, match="user id"):
        CsvLog(write("train.csv", "label,user id\n1,2\n")).infer_schema()


def test_a_field_that_the_file_lacks_is_named(write, read_log):
    log = CsvLog(write("test.csv", "label,a\n1,2\n"))
    with pytest.raises(LogFormatError, match="no column b"):
        read_log(log, schema_of(category("a"), category("b")))


def test_damaged_files_are_log_format_errors(write, tmp_path):
    with pytest.raises(LogFormatError, match="no click log at"):
        CsvLog(tmp_path / "absent.csv")
    with pytest.raises(LogFormatError, match="cannot be decompressed"):
        CsvLog(write("train.csv", b"\x1f\x8bno archive"))
    with pytest.raises(LogFormatError, match="not UTF-8"):
        CsvLog(write("binary.csv", b"\xff\xd8\xff"))
    with pytest.raises(LogFormatError, match="no Parquet file"):
        ParquetLog(write("train.parquet", "label,a\n1,2\n"))


def test_a_truncated_archive_is_an_error_and_not_a_short_log(write, read_log):
    rows = np.random.default_rng(0).integers(0, 10**9, 200_000)
    path = write("train.csv.gz", "label,a\n" + "\n".join(f"1,{row}" for row in rows))
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(LogFormatError, match=r"train\.csv\.gz cannot be decompressed: Truncated"):
        read_log(CsvLog(path))


def parquet(tmp_path, **columns) -> ParquetLog:
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    return ParquetLog(tmp_path / "train.parquet")


def test_parquet_integers_strings_dictionaries_and_lists(tmp_path, read_log):
    log = parquet(
        tmp_path,
        label=pa.array([True, False, None]),
        user=pa.array([1, None, 3], pa.int64()),
        city=pa.array(["x", "", None]).dictionary_encode(),
        tags=pa.array([[1, 2], [], None], pa.list_(pa.int32())),
    )
    reading = read_log(log)
    assert reading.rows == {
        "label": [1, 0],
        "user": ["1", None],
        "city": ["x", None],
        "tags": [["1", "2"], []],
    }
    assert reading.refused == [(3, "the label is missing")]
    assert [field.multivalued for field in log.infer_schema().fields] == [False, False, True]


def test_parquet_numbers(tmp_path, read_log):
    log = parquet(tmp_path, click=[0.0, 1.0, 1.0], price=[1.5, float("nan"), float("inf")])
    reading = read_log(log, schema_of(number("price")))
    assert reading.rows == {"label": [0, 1], "price": ["1.5", None]}
    assert reading.refused == [(3, "numeric field 'price' holds 'inf', not a finite number")]


def test_lists_need_a_multivalued_field(tmp_path, read_log):
    with pytest.raises(LogFormatError, match="declare it multivalued"):
        read_log(parquet(tmp_path, label=[1], a=[["x"]]), schema_of(category("a")))
