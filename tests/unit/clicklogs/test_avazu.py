import pytest

from slimctr.clicklogs.avazu import CELLS, FIELDS, AvazuLog
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema, Field

HEADER = ",".join(CELLS)


def line(**cells) -> str:
    values = {name: f"{name}0" for name in CELLS} | {"click": "1", "hour": "14102100"} | cells
    return ",".join(values.values())


@pytest.mark.parametrize("header", [HEADER + "\n", ""])
def test_reads_with_and_without_a_header(write, read_log, header):
    path = write("train.csv.gz", header + line() + "\n" + line(click="0", device_ip="") + "\n")
    reading = read_log(AvazuLog(path))
    assert list(reading.rows) == ["label", *FIELDS]
    assert reading.rows["label"] == [1, 0]
    assert reading.rows["device_ip"] == ["device_ip0", None]
    assert "id" not in reading.rows


@pytest.mark.parametrize(
    ("hour", "expected"),
    [
        ("14102100", ("0", "1", "0")),
        ("14102523", ("23", "5", "1")),
        ("14102606", ("6", "6", "1")),
        ("", (None,) * 3),
    ],
)
def test_hour_becomes_hour_weekday_and_weekend(write, read_log, hour, expected):
    rows = read_log(AvazuLog(write("train.csv", line(hour=hour)))).rows
    assert (rows["hour"][0], rows["weekday"][0], rows["is_weekend"][0]) == expected


def test_hours_that_are_no_dates_are_refused_with_line_numbers(write, read_log):
    bad = ["14133100", "2014102100", "1410210x", "14022901"]
    path = write("train.csv", "\n".join([HEADER, line(), *(line(hour=hour) for hour in bad)]))
    reading = read_log(AvazuLog(path))
    assert len(reading.rows["label"]) == 1
    assert [number for number, _ in reading.refused] == [3, 4, 5, 6]
    assert "14133100" in reading.refused[0][1]


def test_a_schema_may_leave_the_time_out(write, read_log):
    log = AvazuLog(write("train.csv", line()))
    schema = FeatureSchema(
        fields=(Field(name="C14", kind="categorical"), Field(name="weekday", kind="categorical"))
    )
    assert read_log(log, schema).rows == {"label": [1], "C14": ["C140"], "weekday": ["1"]}
    with pytest.raises(LogFormatError, match="no field id"):
        read_log(log, FeatureSchema(fields=(Field(name="id", kind="categorical"),)))


def test_the_unlabeled_file_and_other_formats_are_refused(write):
    unlabeled = ",".join(name for name in CELLS if name != "click")
    with pytest.raises(LogFormatError, match="23 comma-separated cells"):
        AvazuLog(write("test.csv", unlabeled))
    with pytest.raises(LogFormatError, match="--format criteo"):
        AvazuLog(write("test.csv", "\t".join(["1"] * 40)))
