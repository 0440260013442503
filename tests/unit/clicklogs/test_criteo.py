import pytest

from slimctr.clicklogs.criteo import CATEGORIES, COUNTS, CriteoLog
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema, Field


def line(label="1", counts=None, categories=None, **cells) -> str:
    values = {"label": label} | dict.fromkeys(COUNTS, "3") | dict.fromkeys(CATEGORIES, "68fd1e64") | cells
    return "\t".join(values.values())


def test_reads_counts_categories_and_empty_cells(write, read_log):
    path = write("train.txt", f"{line(I1='', C26='')}\n{line(label='0', I2='-1')}\n")
    reading = read_log(CriteoLog(path))
    assert reading.rows["label"] == [1, 0]
    assert reading.rows["I1"] == [None, "3"]
    assert reading.rows["I2"] == ["3", "-1"]
    assert reading.rows["C26"] == [None, "68fd1e64"]
    assert reading.errors.count == 0


def test_quotes_are_ordinary_characters(write, read_log):
    path = write("train.txt", f"{line(C1=chr(34) + 'a')}\n{line(C2='b' + chr(34))}\n")
    assert read_log(CriteoLog(path)).rows["C1"] == ['"a', "68fd1e64"]


def test_bad_lines_are_counted_with_their_numbers(write, read_log):
    good = line()
    path = write(
        "train.txt", "\n".join([good, line(label="x"), "1\t2\t3", good, line(I5="many"), good]) + "\n"
    )
    reading = read_log(CriteoLog(path))
    assert len(reading.rows["label"]) == 3
    assert sorted(reading.refused) == [
        (2, "label 'x' is neither 0 nor 1 (nor -1, true or false)"),
        (3, "3 cells instead of 40"),
        (5, "numeric field 'I5' holds 'many', not a finite number"),
    ]


def test_strict_stops_at_the_first_bad_line(write, read_log):
    path = write("train.txt", f"{line()}\n{line(I1='1e999')}\n")
    with pytest.raises(LogFormatError, match=r"train\.txt, line 2: .*'1e999'"):
        read_log(CriteoLog(path), strict=True)


def test_schema_has_log_squared_buckets(write):
    schema = CriteoLog(write("train.txt", line())).infer_schema()
    assert [field.kind for field in schema.fields] == ["numeric"] * 13 + ["categorical"] * 26
    assert {field.bucketing.kind for field in schema.fields[:13]} == {"log_squared"}


def test_a_schema_picks_columns_and_must_know_them(write, read_log):
    log = CriteoLog(write("train.txt", line()))
    one = FeatureSchema(fields=(Field(name="C3", kind="categorical"),))
    assert list(read_log(log, one).rows) == ["label", "C3"]
    with pytest.raises(LogFormatError, match="no field C27"):
        read_log(log, FeatureSchema(fields=(Field(name="C27", kind="categorical"),)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",".join(["1"] * 24), "--format avazu"),
        ("label,a,b\n1,2,3\n", "--format csv"),
        ("1 3:1 4:1\n", "--format libfm"),
        ("\t".join(["1"] * 39), "no labels"),
    ],
)
def test_another_format_is_named(write, text, message):
    with pytest.raises(LogFormatError, match=message):
        CriteoLog(write("train.txt", text))
