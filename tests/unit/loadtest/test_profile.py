"""Profiles: the shipped ones are valid, contradictory ones are refused with the reason."""

from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from loadtest.errors import LoadTestError
from loadtest.profile import Profile, load_profile

SHIPPED = sorted(entry.name.removesuffix(".yaml") for entry in (files("loadtest") / "profiles").iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_is_valid(name: str) -> None:
    assert load_profile(name).name == name


def test_every_encoding_is_covered() -> None:
    encodings = get_args(Profile.model_fields["encoding"].annotation)
    assert {load_profile(name).encoding for name in SHIPPED} == set(encodings)


def test_what_the_command_line_says_takes_the_place_of_the_profile() -> None:
    changed = load_profile("slate", {"unit_field": "site", "candidate_fields": ["ad", "slot"], "seed": 3})
    assert (changed.unit_field, changed.candidate_fields, changed.seed) == ("site", ("ad", "slot"), 3)
    with pytest.raises(LoadTestError, match="--candidate-fields"):
        load_profile("columns", {"candidate_fields": ["ad"]})
    with pytest.raises(LoadTestError, match="--candidate-fields"):
        load_profile("slate", {"candidate_fields": []})
    with pytest.raises(LoadTestError, match="--unit-field"):
        load_profile("smoke", {"unit_field": "user"})


def test_a_profile_may_be_any_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("encoding: columns\nrows_per_request: {5: 1}\nrows: {kind: replay}\nseed: 7\n")
    assert load_profile(str(path)).seed == 7


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(LoadTestError, match=r"no profile 'nope'.*replay.*smoke"):
        load_profile("nope")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "encoding: rows\nrows_per_request: {1: 1}\nrows: {kind: zipf_ids, exponent: 1, ids_per_field: 9}",
            "zipf_ids",
        ),
        ("encoding: slate\nrows_per_request: {1: 1}\nrows: {kind: replay}", "candidate_fields"),
        (
            "encoding: rows\nrows_per_request: {1: 1}\noutcomes: true\n"
            "rows: {kind: zipf_values, exponent: 1, fields: {a: 5}}",
            "outcomes need",
        ),
        ("encoding: rows\nrows_per_request: {0: 1}\nrows: {kind: replay}", "rows_per_request"),
        ("encoding: rows\nrows_per_request: {}\nrows: {kind: replay}", "rows_per_request"),
        (
            "encoding: v2-binary\nrows_per_request: {1: 1}\nrows: {kind: zipf_values, exponent: 1, fields: {a: 5}}",
            "encoded ids",
        ),
        ("encoding: xml\nrows_per_request: {1: 1}\nrows: {kind: replay}", "encoding"),
        ("encoding: rows\nrows_per_request: {1: 1}\nrows: {kind: replay}\nuser: 3", "user"),
        ("- a list", "not a profile"),
        ("encoding: [", "not a profile"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(LoadTestError, match=reason):
        load_profile(str(path))


def test_a_profile_is_frozen() -> None:
    profile: Profile = load_profile("smoke")
    with pytest.raises(ValueError, match="frozen"):
        profile.seed = 1  # type: ignore[misc]
