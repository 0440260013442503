"""Row sources: Zipf's law, replays from both files, and their refusals."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from loadtest.errors import LoadTestError
from loadtest.profile import Profile
from loadtest.rows import ReplaySource, Zipf, open_source, read_rows

LOGGED = [{"user": f"u{i}", "tags": ["a", "b"][: i % 3], "label": i % 2} for i in range(10)]


def profile(**changes: object) -> Profile:
    document = {"name": "p", "encoding": "rows", "rows_per_request": {2: 1.0}, "rows": {"kind": "replay"}}
    return Profile.model_validate({**document, **changes})


def test_zipf_ranks_follow_the_law() -> None:
    ranks = Zipf(100, 1.2).draw(200_000, np.random.default_rng(3))
    weights = np.arange(1, 101.0) ** -1.2
    found = np.bincount(ranks, minlength=101)[1:] / len(ranks)
    assert ranks.min() >= 1
    assert np.abs(found - weights / weights.sum()).max() < 0.004  # 3.9 standard errors of the largest share


def test_zipf_with_exponent_0_is_even_and_size_1_is_constant() -> None:
    even = np.bincount(Zipf(4, 0.0).draw(40_000, np.random.default_rng(1)))[1:] / 40_000
    assert np.abs(even - 0.25).max() < 0.02  # nine standard errors of a quarter of 40,000
    assert set(Zipf(1, 2.0).draw(100, np.random.default_rng(1))) == {1}


def test_zipf_values_are_named_and_repeatable() -> None:
    wanted = profile(
        rows={"kind": "zipf_values", "exponent": 1.0, "fields": {"user": 9, "ad": 3}, "prefix": "v"}
    )
    source = open_source(wanted, None)
    first, again = (source.draw(5, np.random.default_rng(4)) for _ in range(2))
    assert first == again
    assert first.clicks is None
    assert {name for row in first.values for name in row} == {"user", "ad"}
    assert all(value.startswith("v") for row in first.values for value in row.values())


def test_a_replay_keeps_rows_and_their_clicks_together() -> None:
    drawn = ReplaySource(LOGGED).draw(50, np.random.default_rng(0))
    assert drawn.clicks is not None
    for row, clicked in zip(drawn.values, drawn.clicks, strict=True):
        assert set(row) == {"user", "tags"}
        assert clicked == int(row["user"][1:]) % 2


def test_rows_are_read_from_jsonl_and_from_a_prepared_directory(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in LOGGED) + "\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(LOGGED), tmp_path / "raw_test.parquet")
    assert read_rows(lines) == read_rows(tmp_path) == LOGGED


def test_what_cannot_be_replayed_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="give --data"):
        open_source(profile(), None)
    with pytest.raises(LoadTestError, match="slimctr data prepare"):
        open_source(profile(), tmp_path / "absent")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"user": "u1"}\n')
    with pytest.raises(LoadTestError, match="no 'label'"):
        open_source(profile(outcomes=True), rows)
    with pytest.raises(LoadTestError, match="lack item"):
        open_source(profile(unit_field="item"), rows)
    rows.write_text("")
    with pytest.raises(LoadTestError, match="no rows"):
        open_source(profile(), rows)
