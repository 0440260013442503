import pytest

from slimctr.clicklogs import libfm
from slimctr.clicklogs.libfm import LibfmLog
from slimctr.errors import LogFormatError
from slimctr.features import Bucketing, FeatureSchema, Field


def test_positions_are_fields(write, read_log):
    reading = read_log(LibfmLog(write("train.libfm.gz", "1 3:1 10:1\n-1 4:1.0  11:1 \r\n\n0 3:1\t12:1")))
    assert reading.rows == {"label": [1, 0, 0], "f1": ["3", "4", "3"], "f2": ["10", "11", "12"]}
    assert reading.errors.count == 0


def test_field_numbers_may_be_absent_or_repeat(write, read_log):
    log = LibfmLog(write("train.ffm", "1 0:3:1 2:10:1 2:11:1\n0 2:12:1\n"))
    assert [(field.name, field.multivalued) for field in log.infer_schema().fields] == [
        ("f0", False),
        ("f2", True),
    ]
    assert read_log(log).rows == {"label": [1, 0], "f0": ["3", None], "f2": [["10", "11"], ["12"]]}


def test_numeric_fields_take_the_value(write, read_log):
    schema = FeatureSchema(
        fields=(
            Field(name="f2", kind="numeric", bucketing=Bucketing(kind="log_squared")),
            Field(name="f1", kind="categorical"),
        )
    )
    assert read_log(LibfmLog(write("train.svm", "1 3:1 9:0.25\n")), schema).rows == {
        "label": [1],
        "f2": ["0.25"],
        "f1": ["3"],
    }


def test_bad_lines_are_counted_with_their_numbers(write, read_log, monkeypatch):
    monkeypatch.setattr(libfm, "BLOCK_BYTES", 16)
    lines = [
        b"1 3:1 4:1",
        b"1 3:1",
        b"2 3:1 4:1",
        b"1 3:1 4",
        b"1 3:1 4:0.5",
        b"",
        b"0 3:1 4:x",
        b"1 \xff:1 4:1",
        b"0 1:1 2:1",
    ]
    reading = read_log(LibfmLog(write("train.libfm", b"\n".join(lines))))
    assert reading.rows["label"] == [1, 0]
    assert [number for number, _ in reading.refused] == [2, 3, 4, 5, 7, 8]
    details = dict(reading.refused)
    assert details[2] == "1 pairs instead of 2"
    assert "declare it numeric" in details[5]
    assert "'1 3:1 4' holds something else than index:value" in details[4]


def test_a_repeated_single_field_is_refused(write, read_log):
    log = LibfmLog(write("train.ffm", "1 0:3:1 1:4:1\n0 0:3:1 0:4:1\n"))
    schema = FeatureSchema(fields=(Field(name="f0", kind="categorical"),))
    reading = read_log(log, schema)
    assert reading.rows == {"label": [1], "f0": ["3"]}
    assert reading.refused == [(2, "field 'f0' occurs twice: declare it multivalued")]


@pytest.mark.parametrize("text", ["label,a\n1,2\n", "1\n", "1 2:3:4:5\n", "1 2:1 0:3:1\n"])
def test_other_formats_are_refused(write, text):
    with pytest.raises(LogFormatError, match="no libFM log"):
        LibfmLog(write("train.libfm", text))


@pytest.mark.parametrize("name", ["user", "f01", "f3"])
def test_a_schema_must_name_its_fields(write, read_log, name):
    with pytest.raises(LogFormatError, match=name):
        read_log(
            LibfmLog(write("train.libfm", "1 2:1 3:1\n")),
            FeatureSchema(fields=(Field(name=name, kind="categorical"),)),
        )


@pytest.mark.parametrize("one", ["1", "1.0", "+1", "1.0000e+00", "10e-1"])
def test_the_number_behind_a_category_is_equal_to_1(write, read_log, one):
    path = write("train.libfm", f"1.0000e+00 5:{one}\n0 6:1\n-1 7:2\n0 8:nan\n")
    reading = read_log(LibfmLog(path))
    assert reading.rows == {"label": [1, 0], "f1": ["5", "6"]}
    assert [line for line, _ in reading.refused] == [3, 4]
