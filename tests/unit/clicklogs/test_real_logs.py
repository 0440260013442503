"""Prepares the real logs; each test is skipped where its log is absent."""

import pytest
from realdata import real_data

from slimctr.clicklogs import PrepareSettings, prepare


def check(dataset, rows: dict[str, int]) -> None:
    assert {split: entry["rows"] for split, entry in dataset.info["splits"].items()} == rows
    assert dataset.info["parse_errors"]["count"] == 0
    raw, labels = dataset.raw_test(500)
    test = dataset.load("test")
    assert (dataset.encoder().encode_rows(raw).ids == test.batch.ids[: len(raw)]).all()
    assert (labels == test.labels[: len(raw)]).all()
    assert all(dataset.counts(name).sum() == rows["train"] for name in dataset.schema.names)


@pytest.mark.parametrize("folder", ["frappe_x1", "frappe_x1/raw_values"])
def test_frappe(tmp_path, folder):
    dataset = prepare(PrepareSettings("csv", real_data(folder)), tmp_path / "out")
    check(dataset, {"train": 202_027, "valid": 57_722, "test": 28_860})
    assert dataset.schema.names[:3] == ("user", "item", "daytime")
    # 957 users and 4,082 items in all, three users of them not in training; each field has an OOV row.
    assert dataset.rows_per_field == [955, 4_083, 8, 8, 3, 4, 3, 10, 81, 234]


def test_criteo(tmp_path):
    dataset = prepare(
        PrepareSettings("criteo", real_data("criteo_kaggle_first8k"), min_count=2), tmp_path / "out"
    )
    check(dataset, {"train": 7_200, "valid": 409, "test": 391})
    missing = {field["name"]: field["splits"]["train"]["missing"] for field in dataset.info["fields"]}
    assert missing["I2"] == 0
    assert missing["C22"] > missing["I1"] > 1_000


def test_avazu(tmp_path):
    dataset = prepare(PrepareSettings("avazu", real_data("avazu_first9k")), tmp_path / "out")
    check(dataset, {"train": 8_087, "valid": 480, "test": 432})
    # The sample is of one hour, 2014-10-21 00h, a Tuesday.
    assert (
        dataset.raw_test(1)[0][0] | {"hour": "0", "weekday": "1", "is_weekend": "0"}
        == dataset.raw_test(1)[0][0]
    )
