"""Reading in pieces reads what a reader of the whole reads, and refuses what that refuses."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadJson, InvalidInput, ServiceError
from service.wire import json_body
from service.wire.json_body import load_json
from slimctr.native import json_pieces
from slimctr.native.json_pieces import discard, extend, release

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=60,
)
LAYOUTS = st.sampled_from([(None, (",", ":")), (1, (", ", ": ")), (None, (" , ", " : "))])


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "PIECE_BYTES", 12)
        yield


def is_refused(text: bytes) -> bool:
    try:
        load_json(text)
    except ServiceError:
        return True
    return False


@given(value=VALUES, layout=LAYOUTS, is_ascii=st.booleans(), blanks=st.text(" \n\t\r", max_size=20))
def test_every_document_is_read_as_it_is(
    value: Any, layout: tuple[int | None, tuple[str, str]], is_ascii: bool, blanks: str
) -> None:
    indent, separators = layout
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=is_ascii)
    assert load_json((blanks + text + blanks).encode()) == value


@given(
    value=VALUES, edits=st.lists(st.tuples(st.integers(0, 400), st.sampled_from('[]{},:"\\ 1ea')), max_size=3)
)
def test_whatever_is_no_document_is_refused(value: Any, edits: list[tuple[int, str]]) -> None:
    text = json.dumps([value, {"a": value}])
    for place, letter in edits:
        place %= len(text) + 1
        text = text[:place] + letter + text[place + (place % 2) :]
    try:
        expected = json.loads(text)
    except ValueError:
        assert is_refused(text.encode())
    else:
        if not is_refused(text.encode()):  # numbers that are written as no other reader would are refused
            assert load_json(text.encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3, 4, 5, 6, 7, 8,]",
        "[, 1, 2, 3, 4, 5, 6, 7, 8]",
        "[1, 2, 3, 4,, 5, 6, 7, 8]",
        '{"a": 1, "b": 2, "c": 3,}',
        '{"a": 1, , "b": 2, "c": 3}',
        '{"a": 1, "b": 2, "c": 3]',
        "[1, 2, 3, 4, 5, 6, 7, 8}",
        "[1, 2, 3, 4, 5, 6, 7, 8]]",
        '["unclosed string of some length]',
        '["escaped quote of some length\\"]',
        '{"a long name of some length" 1}',
        '{"a long name of some length": }',
        '{"a": 1, "b", "c": 3, "d": 4444}',
        '{12345678901234567890: "a", "b": 1}',
        '{[1, 2, 3, 4, 5, 6]: "a", "b": 1}',
        '["a long name of some length": 1]',
        "[" * 60 + "]" * 60,
    ],
)
def test_broken_documents_are_refused(text: str) -> None:
    with pytest.raises(BadJson):
        load_json(text.encode())


def test_the_last_of_two_members_of_a_name_counts() -> None:
    assert load_json(b'{"a": 1, "a": [1, 2, 3, 4, 5, 6, 7, 8], "b": 1, "a": 3}') == {"a": 3, "b": 1}


@given(st.lists(st.lists(st.sampled_from(["1", "NaN", "-Infinity", '"NaN"']), max_size=9), max_size=12))
def test_every_value_that_is_no_finite_number_is_pointed_to_up_to_twenty(rows: list[list[str]]) -> None:
    text = '{"columns": {"tags": [' + ",".join("[" + ", ".join(row) + "]" for row in rows) + "]}}"
    bad = [
        f"#/columns/tags/{i}/{j}"
        for i, row in enumerate(rows)
        for j, item in enumerate(row)
        if item in ("NaN", "-Infinity")
    ]
    if not bad:
        assert json_body.load_json(text.encode()) == json.loads(text)
        return
    with pytest.raises(InvalidInput) as caught:
        load_json(text.encode())
    assert [fault.pointer for fault in caught.value.faults] == bad[:20]


def test_what_comes_behind_twenty_faults_is_not_read() -> None:
    text = b"[" + b"NaN, " * 100 + b"1" + b", broken" * 100
    with pytest.raises(InvalidInput):
        load_json(text + b"]")


@given(VALUES)
def test_a_discarded_value_is_empty(value: Any) -> None:
    discard(value)
    if isinstance(value, list | dict):
        assert not value


@given(size=st.integers(0, 70_000))
@settings(max_examples=20, deadline=None)
def test_a_long_list_is_appended_and_emptied_in_pieces_and_its_members_stay(size: int) -> None:
    member = ["kept"]
    more, values = [member] * size, [member]
    extend(values, more)
    assert values == [member] * (size + 1)
    release(values)
    assert (values, member, len(more)) == ([], ["kept"], size)
