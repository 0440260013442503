import mmap

import numpy as np
import pytest

from slimctr.errors import ConfigError
from slimctr.features import Encoder, FeatureSchema, TextColumn, Vocabulary, keys_in_row_order
from slimctr.features import vocabulary as vocabulary_module

SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "site", "kind": "categorical"},
            {"name": "ad", "kind": "categorical", "hash_rows": 100},
            {"name": "tags", "kind": "categorical", "multivalued": True},
        ]
    }
)
KEYS = {"site": ["b", "a", ""], "tags": [b"x", b"\xff\x00"]}
ONE_FIELD = FeatureSchema.parse({"fields": [{"name": "site", "kind": "categorical"}]})


def one_field(keys):
    return Encoder(ONE_FIELD, Vocabulary.build(ONE_FIELD, {"site": keys}))


def test_rows_follow_training_counts_then_key_bytes():
    counts = {b"z": 3, b"a": 3, b"often": 9, b"rare": 1, b"": 2}
    assert keys_in_row_order(counts, min_count=2) == [b"often", b"a", b"z", b""]


def test_listed_keys_get_their_position_and_others_the_oov_row():
    batch = one_field(["b", "a", "42"]).encode_columns({"site": ["a", "b", 42, "c", None]})
    assert batch.ids[:, 0].tolist() == [2, 1, 3, 0, 0]
    assert batch.oov.tolist() == [1]
    assert batch.missing.tolist() == [1]


def test_tables_have_a_row_more_than_values_and_hashed_tables_their_setting():
    vocabulary = Vocabulary.build(SCHEMA, KEYS)
    assert [vocabulary.rows(field) for field in range(3)] == [4, 101, 3]
    assert len(vocabulary) == 5
    assert vocabulary.missing_rows[0] == 3
    assert vocabulary.missing_rows[1] >= 1
    assert vocabulary.missing_rows[2] == 0


def test_keys_may_come_as_one_buffer():
    column = TextColumn.of(["b", "a", "42"])
    assert one_field(column).encode_rows([{"site": "a"}]).ids[0, 0] == 2


@pytest.mark.parametrize("keys", [[], ["only"]])
def test_a_field_may_list_few_values_or_none(keys):
    batch = one_field(keys).encode_columns({"site": ["only", "other"]})
    assert batch.ids[:, 0].tolist() == [len(keys), 0]


def test_a_saved_vocabulary_opens_memory_mapped_and_equal(tmp_path):
    built = Vocabulary.build(SCHEMA, KEYS)
    built.save(tmp_path / "v.safetensors")
    opened = Vocabulary.open(tmp_path / "v.safetensors", SCHEMA)
    assert isinstance(opened._arrays["entries"].base, mmap.mmap)
    rows = [{"site": "a", "ad": "7", "tags": ["x", "?"]}, {"site": 5}]
    first, second = (Encoder(SCHEMA, v).encode_rows(rows) for v in (built, opened))
    assert first.ids.tolist() == second.ids.tolist()
    assert first.bags[0].values.tolist() == second.bags[0].values.tolist() == [1, 0, 0]


def test_building_twice_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        Vocabulary.build(SCHEMA, KEYS).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_vocabulary_costs_at_most_twelve_bytes_a_value_and_rarely_errs(tmp_path):
    values = 20_000
    vocabulary = Vocabulary.build(ONE_FIELD, {"site": [f"{i:x}" for i in range(values)]})
    vocabulary.save(tmp_path / "v.safetensors")
    assert vocabulary.bytes_per_value() <= 12
    assert (tmp_path / "v.safetensors").stat().st_size <= 12 * values
    assert vocabulary.false_positive_rate() < 1e-9  # a value of hashes: no float is summed
    unlisted = Encoder(ONE_FIELD, vocabulary).encode_columns({"site": np.arange(-500_000, 0)})
    assert not unlisted.ids.any()


def test_a_field_has_the_same_hashed_rows_wherever_it_stands():
    fields = [{"name": "ad", "kind": "categorical", "hash_rows": 100}]
    alone = FeatureSchema.parse({"fields": fields})
    encoder = Encoder(alone, Vocabulary.build(alone, {}))
    other = Encoder(SCHEMA, Vocabulary.build(SCHEMA, KEYS))
    rows = [{"ad": value} for value in range(50)]
    assert encoder.encode_rows(rows).ids[:, 0].tolist() == other.encode_rows(rows).ids[:, 1].tolist()
    assert encoder.encode_rows(rows).ids.min() >= 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"site": ["a", "b", "a"], "tags": []}, "field 'site' lists b'a' twice"),
        ({"site": ["a"]}, "tags"),
        ({"site": ["a"], "tags": [], "ad": ["1"]}, "ad"),
        ({"site": ["a"], "tags": [], "no": []}, "no"),
    ],
)
def test_keys_that_do_not_fit_the_schema_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        Vocabulary.build(SCHEMA, keys)


def test_colliding_values_get_another_seed(monkeypatch):
    keys = [str(i) for i in range(9)]
    whole = vocabulary_module.hash_text
    attempts = []

    def narrow(data, starts, ends, seed=0):
        hashes = whole(data, starts, ends, seed)
        if len(starts) == len(keys):
            attempts.append(seed)
            return hashes & np.uint64(0xFFFFFFFF_FFFFFFFF if len(attempts) > 2 else 0x80000000_0000000F)
        return hashes

    monkeypatch.setattr(vocabulary_module, "hash_text", narrow)
    vocabulary = Vocabulary.build(ONE_FIELD, {"site": keys})
    assert len(set(attempts)) == len(attempts) > 1
    assert len(vocabulary) == len(keys)


def test_values_that_collide_under_every_seed_are_refused(monkeypatch):
    monkeypatch.setattr(
        vocabulary_module, "hash_text", lambda data, starts, ends, seed=0: np.zeros(len(starts), np.uint64)
    )
    with pytest.raises(ConfigError, match="field 'site' collide under all 16 seeds"):
        Vocabulary.build(ONE_FIELD, {"site": ["a", "b"]})
