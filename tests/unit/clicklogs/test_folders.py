"""Folders as Spark and Hive write them: parts, partitions, markers, checksums."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimctr.clicklogs import Dataset, PrepareSettings, SplitRule, prepare
from slimctr.clicklogs.splits import find_split_files, partitions
from slimctr.errors import LogFormatError

ROWS = {
    "train": [(1, "u1", "2024-01-01"), (0, "u2", "2024-01-01"), (1, "u1", "2024-01-02"), (0, "u3", None)],
    "valid": [(1, "u1", "2024-01-03"), (0, "u9", "2024-01-03")],
    "test": [(0, "u2", "2024-01-04"), (1, "u1", "2024-01-04")],
}


def write_parts(root: Path, form: str) -> Path:
    """Write ROWS as a Spark job with partitionBy("dt") does."""
    for split, rows in ROWS.items():
        for day in dict.fromkeys(day for _, _, day in rows):
            folder = root / split / f"dt={day or '__HIVE_DEFAULT_PARTITION__'}"
            folder.mkdir(parents=True)
            part = [(label, user) for label, user, at in rows if at == day]
            for number, row in enumerate(part):
                name = f"part-{number:05}-3a7e.c000"
                if form == "parquet":
                    table = pa.table({"label": [row[0]], "user": [row[1]]})
                    pq.write_table(table, folder / f"{name}.snappy.parquet")
                elif form == "csv":
                    (folder / f"{name}.csv.gz").write_bytes(
                        gzip.compress(f"label,user\n{row[0]},{row[1]}\n".encode())
                    )
                else:
                    (folder / f"00000{number}_0").write_text(f"label,user\n{row[0]},{row[1]}\n")
                (folder / f".{name}.csv.crc").write_bytes(b"crc\0")
            (folder / "part-00099-3a7e.c000.csv").write_bytes(b"")
        (root / split / "_SUCCESS").write_bytes(b"")
        (root / split / "_metadata").write_bytes(b"PAR1")
        (root / split / "_temporary" / "0").mkdir(parents=True)
        (root / split / "_temporary" / "0" / "part-00000.csv").write_text("label,user\n1,leak\n")
    (root / "_SUCCESS").write_bytes(b"")
    (root / ".train.csv.crc").write_bytes(b"crc")
    return root


def raw_rows(dataset: Dataset) -> list[tuple]:
    rows, labels = dataset.raw_test(100)
    return [(int(label), *row.values()) for label, row in zip(labels, rows, strict=True)]


@pytest.mark.parametrize("form", ["parquet", "csv", "hive text"])
def test_the_rows_of_all_parts_are_the_log(tmp_path, form):
    log_format = "parquet" if form == "parquet" else "csv"
    dataset = prepare(PrepareSettings(log_format, write_parts(tmp_path / "log", form)), tmp_path / "out")
    assert {split: info["rows"] for split, info in dataset.info["splits"].items()} == {
        "train": 4,
        "valid": 2,
        "test": 2,
    }
    assert dataset.schema.names == ("user",)
    assert raw_rows(dataset) == [(0, "u2"), (1, "u1")]
    [warning] = dataset.info["warnings"]
    assert warning.startswith("column dt is left out")
    files = [entry["file"] for entry in dataset.info["source"]]
    assert files == sorted(
        files, key=lambda file: (("train", "valid", "test").index(file.split("/")[0]), file)
    )
    assert len(files) == sum(map(len, ROWS.values()))


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_partition_becomes_a_field_where_the_schema_names_it(tmp_path, write, form):
    schema = write("schema.yaml", "fields: [{name: dt, kind: categorical}, {name: user, kind: categorical}]")
    source = write_parts(tmp_path / "log", form)
    dataset = prepare(PrepareSettings(form, source, schema=schema), tmp_path / "out")
    assert raw_rows(dataset) == [(0, "2024-01-04", "u2"), (1, "2024-01-04", "u1")]
    assert dataset.info["warnings"] == []
    assert dataset.info["fields"][0]["splits"]["train"] == {"values": 4, "oov": 0, "missing": 1}
    trained = dataset.load("train").batch.ids.tolist()
    batch = dataset.encoder().encode_rows([{"dt": "2024-01-01", "user": "u1"}, {"user": "u3"}])
    assert batch.ids.tolist() == [trained[0], trained[3]]


def test_the_label_may_be_a_partition(tmp_path, write):
    for split in ("train", "valid", "test"):
        for label in (0, 1):
            write(f"log/split={split}/clicked={label}/part-0.csv", f"user\nu{label}\n")
    dataset = prepare(PrepareSettings("csv", tmp_path / "log"), tmp_path / "out")
    assert raw_rows(dataset) == [(0, "u0"), (1, "u1")]
    assert dataset.schema.names == ("user",)


def test_a_refused_row_is_named_with_its_part(tmp_path, write):
    write("log/train/dt=1/part-0.csv", "label,user\n1,u\n")
    write("log/train/dt=2/part-0.csv", "label,user\n1,u\n7,u\n")
    write("log/valid.csv", "label,user\n1,u\n")
    write("log/test.csv", "label,user\n1,u\n")
    with pytest.raises(LogFormatError, match="does not lie in a folder for each of dt"):
        prepare(PrepareSettings("csv", tmp_path / "log"), tmp_path / "out")
    for name in ("valid", "test"):
        (tmp_path / f"log/{name}.csv").unlink()
        write(f"log/{name}/dt=3/part-0.csv", "label,user\n1,u\n")
    dataset = prepare(PrepareSettings("csv", tmp_path / "log"), tmp_path / "out")
    [error] = dataset.info["parse_errors"]["examples"]
    assert (error["file"], error["line"]) == ("train/dt=2/part-0.csv", 3)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("part-0.csv", {}),
        ("dt=2024-01-31/country=US/part-0.csv", {"dt": "2024-01-31", "country": "US"}),
        ("at=10%3A30/x%3Dy=%C3%A9/part-0.csv", {"at": "10:30", "x=y": "é"}),
        ("dt=__HIVE_DEFAULT_PARTITION__/part-0.csv", {"dt": None}),
        ("dt=/part-0.csv", {"dt": None}),
        ("sub/dt=1/part-0.csv", {"dt": "1"}),
        ("a=b=c/part-0.csv", {"a": "b=c"}),
    ],
)
def test_the_names_of_folders_are_values(name, values):
    assert partitions(Path(name)) == values


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/part-0.csv", "train.csv"], "both a file and a folder for train"),
        (["train/part-0.csv.snappy"], "lies among the files of a split"),
        (["train/part-0.orc"], "lies among the files of a split"),
        (["train/part-0.csv", "train/part-0.csv.gz"], "there twice"),
        (["train_test/part-0.csv"], "names two splits"),
        (["train/_SUCCESS"], "no file for train"),
    ],
)
def test_unclear_folders_are_refused(tmp_path, write, files, message):
    for name in (*files, "valid.csv", "test.csv"):
        write(f"log/{name}", b"x")
    with pytest.raises(LogFormatError, match=message):
        find_split_files(tmp_path / "log")


def test_many_parts_need_few_file_descriptors(tmp_path, write):
    import resource

    for split in ("train", "valid", "test"):
        (tmp_path / "log" / split).mkdir(parents=True)
        for number in range(60):
            table = pa.table({"label": [number % 2], "user": [str(number)]})
            pq.write_table(table, tmp_path / "log" / split / f"part-{number:02}.parquet")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        dataset = prepare(PrepareSettings("parquet", tmp_path / "log"), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert dataset.info["splits"]["train"]["rows"] == 60


def test_shards_are_read_in_the_same_order_however_they_were_written(tmp_path, write: Callable[..., Path]):
    for order in (range(12), reversed(range(12))):
        root = f"log{len(list(tmp_path.iterdir()))}"
        for number in order:
            for split in ("train", "valid", "test"):
                write(f"{root}/{split}/part-{number}.csv", f"label,user\n{number % 2},u{number}\n")
    first, second = (
        prepare(PrepareSettings("csv", folder), tmp_path / f"out-{folder.name}")
        for folder in sorted(tmp_path.iterdir())
    )
    assert first.info["files"] == second.info["files"]


@pytest.mark.parametrize("form", ["parquet", "csv", "hive text"])
def test_one_log_in_parts_is_cut_like_one_file(tmp_path, form):
    log_format = "parquet" if form == "parquet" else "csv"
    source = write_parts(tmp_path / "log", form) / "train"
    cut = SplitRule((0.5, 0.25, 0.25), "time")
    dataset = prepare(PrepareSettings(log_format, source, split=cut), tmp_path / "out")
    assert [info["rows"] for info in dataset.info["splits"].values()] == [2, 1, 1]
    assert raw_rows(dataset) == [(0, "u3")]
    [*_, warning] = dataset.info["warnings"]
    assert warning.startswith("column dt is left out")


def test_parts_may_lie_without_partitions(tmp_path, write):
    for number in range(3):
        write(f"log.csv/part-0000{number}.csv", f"label,user\n{number % 2},u{number}\n1,v\n0,w\n")
    write("log.csv/_SUCCESS", "")
    dataset = prepare(
        PrepareSettings("csv", tmp_path / "log.csv", split=SplitRule((0.4, 0.3, 0.3), "time")),
        tmp_path / "out",
    )
    assert [info["rows"] for info in dataset.info["splits"].values()] == [4, 3, 2]


def test_a_partition_may_hold_the_letters_of_a_split(tmp_path, write):
    for device in ("ios", "android"):
        write(f"log/device={device}/interval=1/part-0.csv", "label,user\n1,u\n0,v\n1,w\n")
    cut = SplitRule((0.4, 0.3, 0.3), "time")
    dataset = prepare(PrepareSettings("csv", tmp_path / "log", split=cut), tmp_path / "out")
    left_out = [warning.split()[1] for warning in dataset.info["warnings"] if warning.startswith("column")]
    assert left_out == ["device", "interval"]


def test_a_folder_of_other_files_is_no_log_in_parts(tmp_path, write):
    write("log/part-0.csv", "label,user\n1,u\n")
    write("log/readme.csv", "label,user\n1,u\n")
    with pytest.raises(LogFormatError, match="no file for train, valid, test"):
        prepare(PrepareSettings("csv", tmp_path / "log"), tmp_path / "out")
