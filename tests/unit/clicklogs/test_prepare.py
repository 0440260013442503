import json
import os
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from slimctr.clicklogs import Dataset, PrepareSettings, SplitRule, SyntheticSpec, prepare
from slimctr.errors import ConfigError, LogFormatError

SPLITS = ("train", "valid", "test")
TRAIN = "label,user,city\n1,u1,Köln\n0,u1,Rom\n0,u2,\n1,u1,Köln\n0,u3,Rom\n"
VALID = "label,user,city\n1,u9,Rom\n0,u1,\n"
TEST = "city,label,user\nRom,0,u1\nOslo,1,u2\n,1,u8\n"


@pytest.fixture
def folder(write, tmp_path):
    write("log/train.csv", TRAIN)
    write("log/valid.csv.zst", VALID)
    write("log/test.csv.gz", TEST)
    return tmp_path / "log"


def settings(source, **others) -> PrepareSettings:
    return PrepareSettings(log_format="csv", source=source, **others)


def ids_of(dataset: Dataset, split: str) -> list[list[int]]:
    return dataset.load(split).batch.ids.tolist()


def test_rows_are_numbered_by_training_count_and_unknown_values_are_oov(folder, tmp_path):
    dataset = prepare(settings(folder), tmp_path / "out")
    assert dataset.schema.names == ("user", "city")
    # user: u1 x3, u2, u3. city: "Rom" and "Köln" twice (byte order: "K" before "R"), missing once.
    assert ids_of(dataset, "train") == [[1, 1], [1, 2], [2, 3], [1, 1], [3, 2]]
    assert ids_of(dataset, "valid") == [[0, 2], [1, 3]]
    assert ids_of(dataset, "test") == [[1, 2], [2, 0], [0, 3]]
    assert dataset.load("train").labels.tolist() == [1, 0, 0, 1, 0]
    assert dataset.rows_per_field == [4, 4]
    assert dataset.counts("user").tolist() == [0, 3, 1, 1]
    assert dataset.counts("city").tolist() == [0, 2, 2, 1]


def test_dataset_json_tells_what_happened(folder, tmp_path):
    (folder / "valid.csv.zst").unlink()
    (folder / "valid.csv").write_text(VALID + "7,u1,Rom\n")
    info = prepare(settings(folder), tmp_path / "out").info
    assert info["format"] == "csv"
    assert info["split"] == {"by": "files"}
    assert info["splits"]["train"] == {"rows": 5, "clicks": 2, "click_rate": 0.4}
    assert info["fields"][0]["splits"]["test"] == {"values": 3, "oov": 1, "missing": 0}
    assert info["fields"][1]["splits"]["test"] == {"values": 3, "oov": 1, "missing": 1}
    assert info["parse_errors"]["count"] == 1
    assert info["parse_errors"]["examples"][0]["line"] == 4
    assert [entry["file"] for entry in info["source"]] == ["train.csv", "valid.csv", "test.csv.gz"]
    listed = {entry["file"] for entry in info["files"]}
    assert listed | {"dataset.json"} == {path.name for path in (tmp_path / "out").iterdir()}


def test_the_encoder_gives_the_ids_of_the_raw_test_rows(folder, tmp_path):
    dataset = prepare(settings(folder), tmp_path / "out")
    rows, labels = dataset.raw_test(2)
    assert rows == [{"user": "u1", "city": "Rom"}, {"user": "u2", "city": "Oslo"}]
    assert labels.tolist() == [0, 1]
    rows, _ = dataset.raw_test(100)
    assert rows[2]["city"] is None
    assert dataset.encoder().encode_rows(rows).ids.tolist() == ids_of(dataset, "test")


def test_same_input_gives_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        prepare(settings(folder), tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_min_count_hash_and_required(folder, tmp_path):
    changed = settings(folder, min_count=2, hash_rows={"city": 5}, required=("user",))
    dataset = prepare(changed, tmp_path / "out")
    user, city = dataset.schema.fields
    assert (user.min_count, user.required, city.hash_rows) == (2, True, 5)
    assert dataset.rows_per_field == [2, 6]
    assert dataset.counts("user").tolist() == [2, 3]
    assert [row[0] for row in ids_of(dataset, "train")] == [1, 1, 0, 1, 0]
    assert all(1 <= row[1] <= 5 for row in ids_of(dataset, "test"))
    assert dataset.counts("city").sum() == 5


def test_a_schema_file_makes_numbers_and_lists(write, tmp_path):
    source = write("log.csv", "click,price,tags\n" + "1,40,a|b\n0,,\n1,41.5,a\n0,-3,c|a\n" * 50)
    schema = write(
        "schema.yaml",
        "fields:\n- {name: price, kind: numeric, bucketing: {kind: log_squared}}\n"
        "- {name: tags, kind: categorical, multivalued: true}\n",
    )
    dataset = prepare(settings(source, schema=schema, split=SplitRule(seed=1)), tmp_path / "out")
    train = dataset.load("train")
    [bag] = train.batch.bags
    occurrences = Counter(bag.values.tolist())
    assert [occurrences[row] for row in range(5)] == dataset.counts("tags").tolist()
    # 40 and 41.5 share bucket 13; -3 and missing have buckets of their own.
    assert dataset.rows_per_field == [4, 5]
    rows, labels = dataset.raw_test(1_000)
    assert {(row["price"], tuple(row["tags"] or ())) for row in rows} == {
        (40, ("a", "b")),
        (None, ()),
        (41.5, ("a",)),
        (-3, ("c", "a")),
    }
    encoded, stored = dataset.encoder().encode_rows(rows), dataset.load("test")
    assert (encoded.ids == stored.batch.ids).all()
    assert (encoded.bags[0].values == stored.batch.bags[0].values).all()
    assert (encoded.bags[0].offsets == stored.batch.bags[0].offsets).all()
    assert (labels == stored.labels).all()


def test_stream_gives_the_rows_of_load(write, tmp_path):
    source = write("log.csv", "label,a,b\n" + "".join(f"{n % 2},{n % 7},{n}\n" for n in range(1_000)))
    dataset = prepare(settings(source), tmp_path / "out")
    whole = dataset.load("train")
    for rows in (1, 64, 10_000):
        parts = list(dataset.stream("train", rows))
        assert all(len(part) == rows for part in parts[:-1])
        assert (np.concatenate([part.batch.ids for part in parts]) == whole.batch.ids).all()
        assert (np.concatenate([part.labels for part in parts]) == whole.labels).all()


def test_raw_test_keeps_at_most_50_000_rows(tmp_path):
    spec = SyntheticSpec(rows=60_000, cardinalities=(3, 4))
    cut = SplitRule((0.05, 0.05, 0.9), "time")
    dataset = prepare(PrepareSettings("synthetic", split=cut, synthetic=spec), tmp_path / "out")
    assert pq.read_metadata(tmp_path / "out" / "raw_test.parquet").num_rows == 50_000
    rows, labels = dataset.raw_test(100_000)
    assert len(rows) == len(labels) == 50_000
    assert (dataset.encoder().encode_rows(rows).ids == dataset.load("test").batch.ids[:50_000]).all()


def test_all_ids_gives_every_id_a_row(tmp_path):
    spec = SyntheticSpec(rows=500, cardinalities=(10, 5_000), all_ids=True)
    dataset = prepare(PrepareSettings("synthetic", synthetic=spec), tmp_path / "out")
    assert dataset.rows_per_field == [11, 5_001]
    assert all(field["splits"]["test"]["oov"] == 0 for field in dataset.info["fields"])
    counts = dataset.counts("C2")
    assert counts[0] == 0
    assert (np.diff(counts[1:]) <= 0).all()


def test_progress_reports_every_step_to_its_end(folder, tmp_path):
    seen = {}
    prepare(
        settings(folder),
        tmp_path / "out",
        progress=lambda step, rows, share: seen.update({step: (rows, share)}),
    )
    assert seen["counting training values"] == (5, 1.0)
    assert seen["encoding"] == (10, 1.0)
    assert all(share == 1.0 for _, share in seen.values())


@pytest.mark.parametrize("hashed", [{}, {"user": 100, "city": 100}])
def test_values_in_another_form_count_as_their_key_and_are_warned_about(write, tmp_path, hashed):
    write("log/train.csv", "label,user,city\n1,3.0,a\n0,3,b\n0,4.0,\n1,,3.10\n")
    write("log/valid.csv", "label,user,city\n1,3.00,a\n0,4,a\n")
    write("log/test.csv", "label,user,city\n1,3,a\n0,True,a\n")
    dataset = prepare(settings(tmp_path / "log", hash_rows=hashed), tmp_path / "out")
    [warning] = dataset.info["warnings"]
    assert "field 'user': 66.67% of its training values, such as '3.0', count as '3'" in warning
    column = dataset.encoder().encode_columns({"user": [3, 3, 4, None, 3, 4]}).ids[:, 0].tolist()
    assert [ids[0] for split in ("train", "valid") for ids in ids_of(dataset, split)] == column
    assert ids_of(dataset, "test")[0][0] == column[0]


def test_one_class_splits_are_warned_about(folder, tmp_path):
    (folder / "test.csv.gz").unlink()
    (folder / "test.csv").write_text("label,user,city\n1,u1,Rom\n1,u2,Rom\n")
    [warning] = prepare(settings(folder), tmp_path / "out").info["warnings"]
    assert warning.startswith("the test split has only clicks")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": None}, ConfigError, "needs a SOURCE"),
        ({"hash_rows": {"town": 5}}, ConfigError, "no field town in this log: its fields are user, city"),
        ({"required": ("age",)}, ConfigError, "no field age"),
        ({"hash_rows": {"city": 0}}, ConfigError, "city"),
        ({"label": "clicks"}, LogFormatError, "looked for 'clicks'"),
        ({"log_format": "criteo"}, LogFormatError, "--format csv"),
    ],
)
def test_settings_that_do_not_fit(folder, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        prepare(PrepareSettings(**{"log_format": "csv", "source": folder} | change), tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_an_empty_split_says_what_was_refused(folder, tmp_path):
    (folder / "train.csv").write_text("label,user,city\n?,u1,Rom\n")
    with pytest.raises(
        LogFormatError, match=r"train split has no usable row; 1 lines were refused, first train\.csv, line 2"
    ):
        prepare(settings(folder), tmp_path / "out")


def test_strict_leaves_nothing_behind(folder, tmp_path):
    (folder / "test.csv.gz").unlink()
    (folder / "test.csv").write_text("label,user,city\n1,u1\n")
    with pytest.raises(LogFormatError, match=r"test\.csv, line 2: 2 cells instead of 3"):
        prepare(settings(folder, strict=True), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_an_absent_source_is_named(tmp_path):
    with pytest.raises(LogFormatError, match=r"no click log at .*nowhere"):
        prepare(settings(tmp_path / "nowhere"), tmp_path / "out")


def test_a_pipe_is_no_log(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LogFormatError, match="a log is read twice"):
        prepare(settings(tmp_path / "pipe"), tmp_path / "out")


def test_out_is_only_replaced_on_demand_and_only_a_data_set(folder, tmp_path):
    out = tmp_path / "out"
    prepare(settings(folder), out)
    before = (out / "dataset.json").read_bytes()
    with pytest.raises(ConfigError, match="--overwrite"):
        prepare(settings(folder), out)
    with pytest.raises(LogFormatError):
        prepare(settings(folder, label="absent"), out, overwrite=True)
    assert (out / "dataset.json").read_bytes() == before
    assert prepare(settings(folder, min_count=2), out, overwrite=True).rows_per_field == [2, 3]
    with pytest.raises(ConfigError, match="is no encoded data set"):
        prepare(settings(folder), folder, overwrite=True)
    assert (folder / "train.csv").read_text() == TRAIN


def read_everything(folder) -> None:
    dataset = Dataset(folder)
    dataset.encoder()
    dataset.counts("user")
    dataset.load("train")


@pytest.mark.parametrize(
    "name", ["schema.json", "vocabulary.safetensors", "counts.safetensors", "train.parquet"]
)
def test_an_altered_file_is_refused_before_it_is_used(folder, tmp_path, name):
    path = tmp_path / "out" / name
    prepare(settings(folder), tmp_path / "out")
    path.write_bytes(path.read_bytes().replace(b"u", b"v", 1) + b" ")
    with pytest.raises(LogFormatError, match=f"{name} differs from the checksum"):
        read_everything(tmp_path / "out")


def test_what_is_no_data_set_is_refused(folder, tmp_path):
    with pytest.raises(LogFormatError, match=r"has no dataset\.json"):
        Dataset(folder)
    prepare(settings(folder), tmp_path / "out")
    (tmp_path / "out" / "valid.parquet").unlink()
    with pytest.raises(LogFormatError, match=r"valid\.parquet is missing"):
        Dataset(tmp_path / "out").load("valid")
    with pytest.raises(LogFormatError, match="no split 'dev'"):
        Dataset(tmp_path / "out").load("dev")
    (tmp_path / "out" / "dataset.json").write_text(json.dumps({"dataset_version": 99}))
    with pytest.raises(LogFormatError, match="version 1"):
        Dataset(tmp_path / "out")
