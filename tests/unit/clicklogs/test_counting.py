from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from slimctr.clicklogs import counting
from slimctr.clicklogs.counting import KeyCounter
from slimctr.errors import ConfigError
from slimctr.features import keys_in_row_order


@pytest.mark.parametrize("min_count", [1, 2, 5])
def test_lists_what_a_dictionary_would(monkeypatch, min_count):
    monkeypatch.setattr(counting, "WAITING_KEYS", 16)
    generator = np.random.default_rng(3)
    counter, expected = KeyCounter("item"), Counter()
    for _ in range(40):
        batch = [None if n == 0 else f"v{n}é" for n in generator.zipf(1.3, 50) % 200]
        counter.add(pa.array(batch, pa.string()))
        expected.update((value or "").encode() for value in batch)
    listed = [key.encode() for key in counter.listed(min_count).to_pylist()]
    assert listed == keys_in_row_order(expected, min_count)


def test_nothing_counted_lists_nothing():
    assert KeyCounter("item").listed(1).to_pylist() == []


def test_unseen_keys_follow_the_counted_ones():
    counter = KeyCounter("item")
    counter.add_unseen(pa.array(["d", "b", "a", "c"]))
    counter.add(pa.array(["c", "c", "b"]))
    assert counter.listed(0).to_pylist() == ["c", "b", "a", "d"]
    assert counter.listed(1).to_pylist() == ["c", "b"]


def test_a_field_beyond_32_bit_offsets_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(counting, "MAX_KEY_BYTES", 10)
    counter = KeyCounter("url")
    counter.add(pa.array(["a" * 20]))
    with pytest.raises(ConfigError, match=r"'url'.*--hash"):
        counter.listed(1)
