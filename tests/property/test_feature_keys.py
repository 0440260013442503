"""Properties of vocabulary and encoder over arbitrary values."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slimctr.features import Encoder, FeatureSchema, TextColumn, Vocabulary, key_of_text, keys_in_row_order
from slimctr.features.columns import MAX_INTEGER

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
values = st.one_of(texts, integers, st.none())
ONE = FeatureSchema.parse({"fields": [{"name": "f", "kind": "categorical"}]})
MIXED = FeatureSchema.parse(
    {
        "fields": [
            {"name": "f", "kind": "categorical"},
            {"name": "n", "kind": "numeric", "bucketing": {"kind": "log_squared"}},
            {"name": "bag", "kind": "categorical", "multivalued": True},
            {"name": "h", "kind": "categorical", "hash_rows": 9},
        ]
    }
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "f": values,
        "n": st.one_of(st.none(), integers, st.floats(allow_nan=False, allow_infinity=False)),
        "bag": st.one_of(st.none(), st.lists(values, max_size=4)),
        "h": values,
    },
)


def encoder_of(keys):
    return Encoder(ONE, Vocabulary.build(ONE, {"f": keys}))


@given(st.lists(texts, unique_by=key_of_text, max_size=300), st.lists(texts, max_size=20))
@settings(deadline=None)
def test_every_listed_value_has_its_own_row_and_no_other_has(listed, others):
    encoder = encoder_of(listed)
    found = encoder.encode_columns({"f": listed + others}).ids[:, 0].tolist()
    place = {key_of_text(value): row for row, value in enumerate(listed, 1)}
    assert found == [place.get(key_of_text(value), 0) for value in listed + others]


@given(st.lists(integers, unique=True, min_size=1, max_size=100))
@settings(deadline=None)
def test_integers_equal_their_strings(numbers):
    encoder = encoder_of([str(number) for number in numbers])
    expected = list(range(1, len(numbers) + 1))
    for column in (
        numbers,
        [str(n) for n in numbers],
        np.array(numbers),
        TextColumn.of(list(map(str, numbers))),
    ):
        assert encoder.encode_columns({"f": column}).ids[:, 0].tolist() == expected


@given(st.dictionaries(st.binary(max_size=6), st.integers(1, 5)), st.integers(1, 5))
def test_rows_are_in_count_order(counts, min_count):
    keys = keys_in_row_order(counts, min_count)
    assert set(keys) == {key for key, count in counts.items() if count >= min_count}
    for first, second in itertools.pairwise(keys):
        assert (counts[first], second) > (counts[second], first)


@given(st.lists(rows, max_size=8), st.lists(texts, unique_by=key_of_text, max_size=5))
@settings(deadline=None)
def test_a_batch_is_the_concatenation_of_its_rows_and_the_slate_of_its_columns(batch_rows, listed):
    keys = {"f": listed, "n": ["0", "1", "2", ""], "bag": [*listed, "-1"]}
    keys["bag"] = list({key_of_text(key): key for key in keys["bag"]}.values())
    encoder = Encoder(MIXED, Vocabulary.build(MIXED, keys))
    whole = encoder.encode_rows(batch_rows)
    columns = {name: [row.get(name) for row in batch_rows] for name in MIXED.names}
    parts = [encoder.encode_rows([row]) for row in batch_rows]
    for other in (encoder.encode_columns(columns), encoder.encode_slate({}, batch_rows)):
        assert_same(other, whole)
    if parts:
        assert_same(type(whole).concatenate(parts), whole)


@given(rows, st.sets(st.sampled_from(MIXED.names)), st.integers(0, 4))
@settings(deadline=None)
def test_a_slate_equals_its_expanded_rows(row, in_context, count):
    encoder = Encoder(MIXED, Vocabulary.build(MIXED, {"f": ["a", "1"], "n": ["", "1"], "bag": ["b", "2"]}))
    context = {name: value for name, value in row.items() if name in in_context}
    candidate = {name: value for name, value in row.items() if name not in in_context}
    assert_same(encoder.encode_slate(context, [candidate] * count), encoder.encode_rows([row] * count))


def assert_same(first, second):
    assert first.ids.tolist() == second.ids.tolist()
    assert first.bags[0].values.tolist() == second.bags[0].values.tolist()
    assert first.bags[0].offsets.tolist() == second.bags[0].offsets.tolist()
    assert first.oov.tolist() == second.oov.tolist()
    assert first.missing.tolist() == second.missing.tolist()
