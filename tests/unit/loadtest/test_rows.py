"""Row sources: Zipf's law, replays from both files, and their refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from schema_kinds import KINDS, prepared

from loadtest.errors import LoadTestError
from loadtest.profile import Profile
from loadtest.rows import ReplaySource, Zipf, open_source, read_jsonl

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
    rows, clicks = [{"user": row["user"], "tags": row["tags"]} for row in LOGGED], [0, 1] * 5
    drawn = ReplaySource(rows, clicks).draw(50, np.random.default_rng(0))
    assert drawn.clicks is not None
    for row, clicked in zip(drawn.values, drawn.clicks, strict=True):
        assert set(row) == {"user", "tags"}
        assert clicked == int(row["user"][1:]) % 2


def drawn(profile: Profile, data: Path, count: int = 400) -> list[dict[str, Any]]:
    return open_source(profile, data).draw(count, np.random.default_rng(1)).values


def test_rows_are_read_from_jsonl(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in LOGGED) + "\n\n")
    assert read_jsonl(lines) == LOGGED
    assert {row["user"] for row in drawn(profile(), lines)} == {f"u{i}" for i in range(10)}
    assert not any("label" in row for row in drawn(profile(), lines))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_prepared_directory_are_what_the_schema_takes(tmp_path: Path, kind: str) -> None:
    """Numbers where a field is numeric, lists where it is multi-valued, None where nothing was logged."""
    dataset = prepared(tmp_path / kind, kind)
    rows = drawn(profile(), tmp_path / kind / "data")
    dataset.encoder().encode_rows(rows)  # raises for what the service would refuse
    for field in dataset.schema.fields:
        types = {type(row[field.name]) for row in rows}
        if kind == "all":
            assert type(None) in types, field.name
        expected = {list} if field.multivalued else {int, float} if field.kind == "numeric" else {str}
        assert types - {type(None)} <= expected


def test_what_cannot_be_replayed_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="give --data"):
        open_source(profile(), None)
    with pytest.raises(LoadTestError, match=r"no dataset\.json.*slimctr data prepare"):
        open_source(profile(), tmp_path / "absent")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"user": "u1", "tags": ["a"]}\n')
    with pytest.raises(LoadTestError, match=r"row 1 of .* no 'label'.*--unit-field ''"):
        open_source(profile(outcomes=True, unit_field="user"), rows)
    with pytest.raises(LoadTestError, match=r"no field 'item' for the unit_id; .*user, tags.*--unit-field"):
        open_source(profile(unit_field="item"), rows)
    with pytest.raises(LoadTestError, match=r"'tags' is multi-valued.*--unit-field"):
        open_source(profile(unit_field="tags"), rows)
    with pytest.raises(LoadTestError, match=r"no field 'ad' for the candidates.*--candidate-fields"):
        open_source(profile(encoding="slate", candidate_fields=["user", "ad"]), rows)
    for encoding in ("v2-json", "v2-binary"):
        with pytest.raises(LoadTestError, match=r"sends encoded ids and .* has none"):
            open_source(profile(encoding=encoding), rows)
    for text, reason in (
        ("", "no rows"),
        ("\n{", "line 2: no JSON"),
        ("[1]", "line 1: write one JSON object"),
    ):
        rows.write_text(text)
        with pytest.raises(LoadTestError, match=reason):
            open_source(profile(), rows)
    rows.write_bytes(b"\xff")
    with pytest.raises(LoadTestError, match="cannot be read"):
        open_source(profile(), rows)


def test_a_prepared_directory_names_its_fields_in_errors(tmp_path: Path) -> None:
    prepared(tmp_path / "log", "all")
    data = tmp_path / "log" / "data"
    with pytest.raises(LoadTestError, match=r"no field 'item'.*user, price, age, tags, device-ip"):
        open_source(profile(unit_field="item"), data)
    with pytest.raises(LoadTestError, match="'tags' is multi-valued"):
        open_source(profile(unit_field="tags"), data)
    (data / "raw_test.parquet").write_bytes(b"")
    with pytest.raises(LoadTestError, match=r"differs from the checksum.*or give a JSONL file"):
        open_source(profile(), data)
