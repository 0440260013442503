"""Vocabularies of tables with fewer rows: listed values get other rows, or are listed no more."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.features.batch import Bag, EncodedBatch
from slimctr.features.schema import FeatureSchema
from slimctr.features.vocabulary import VALUES_PER_BUCKET, Vocabulary

RowMaps = Sequence[NDArray[np.int32] | None]


def renumbered(vocabulary: Vocabulary, maps: RowMaps, stored_rows: Sequence[int]) -> Vocabulary:
    """Return the vocabulary whose values read other rows: `maps` int32 (N_f,) per field, None for no change.

    A value mapped to row 0 leaves the vocabulary, so it reads like any unlisted one; several values may share a
    row. The buckets of a field are merged in pairs while they stay as full as at most four values each on
    average, so the file shrinks with its values. `stored_rows` are the rows of every field afterwards. Raises
    ValueError for a map of a hashed field, whose rows come from the hash alone.
    """
    old = vocabulary.arrays
    rows = old["rows"].copy()
    buckets = np.zeros_like(old["buckets"])
    sizes, entries = [], []
    for field, row_map in enumerate(maps):
        places = _places(old, field)
        listed = old["entries"][_entry_range(old, field), 1].astype(np.int64)
        if row_map is not None:
            if vocabulary.schema.fields[field].hash_rows is not None:
                raise ValueError(
                    f"field '{vocabulary.schema.names[field]}' is hashed: its rows cannot be renumbered"
                )
            rows[field] = stored_rows[field]
            listed = row_map[listed].astype(np.int64)
        kept = listed > 0
        places, listed = places[kept], listed[kept]
        count, places = _merged(places, int(old["buckets"][field + 1] - old["buckets"][field]))
        order = np.argsort(places, kind="stable")
        buckets[field + 1] = buckets[field] + count
        sizes.append(np.bincount((places >> np.uint64(32)).astype(np.int64), minlength=count))
        fingerprints = places[order] & np.uint64(0xFFFFFFFF)
        entries.append(np.stack([fingerprints, listed[order].astype(np.uint64)], axis=1).astype(np.uint32))
    directory = np.zeros(buckets[-1] + 1, np.int64)
    np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]), out=directory[1:])
    return Vocabulary(
        vocabulary.schema,
        {
            "seeds": old["seeds"],
            "rows": rows,
            "buckets": buckets,
            "directory": directory.astype(np.uint32),
            "entries": np.concatenate([np.zeros((0, 2), np.uint32), *entries]),
        },
    )


def maps_between(base: Vocabulary, stored: Vocabulary) -> list[NDArray[np.int32]]:
    """Return for every row of `base` the row of `stored` that its value reads there, int32 (N_f,) per field.

    `stored` was made of `base` by `renumbered`; rows of a hashed field stay. Raises ValueError for vocabularies
    of other values.
    """
    if not np.array_equal(base.arrays["seeds"], stored.arrays["seeds"]):
        raise ValueError("the two vocabularies are of other fields or values")
    maps = []
    for field, rows in enumerate(base.arrays["rows"].tolist()):
        before, after = (int(np.diff(v.arrays["buckets"])[field]) for v in (base, stored))
        if base.schema.fields[field].hash_rows is not None:
            maps.append(np.arange(rows, dtype=np.int32))
            continue
        row_map = np.zeros(rows, np.int32)
        if after:
            if before % after:
                raise ValueError("the two vocabularies are of other values")
            wanted = _shrunk(_places(base.arrays, field), before // after)
            known = _places(stored.arrays, field)
            at = np.minimum(np.searchsorted(known, wanted), len(known) - 1) if len(known) else None
            if at is not None:
                found = known[at] == wanted
                listed = base.arrays["entries"][_entry_range(base.arrays, field), 1]
                row_map[listed[found]] = stored.arrays["entries"][_entry_range(stored.arrays, field), 1][
                    at[found]
                ]
        maps.append(row_map)
    return maps


def renumbered_batch(batch: EncodedBatch, maps: RowMaps, schema: FeatureSchema) -> EncodedBatch:
    """Return the batch with the ids of every field mapped."""
    ids = batch.ids.copy()
    for column, field in enumerate(schema.single):
        if (row_map := maps[field]) is not None:
            ids[:, column] = row_map[batch.ids[:, column]]
    bags = []
    for bag, field in zip(batch.bags, schema.multi, strict=True):
        row_map = maps[field]
        bags.append(bag if row_map is None else Bag(row_map[bag.values], bag.offsets))
    return EncodedBatch.uncounted(ids, tuple(bags))


def _entry_range(arrays: Any, field: int) -> slice:
    buckets = arrays["buckets"]
    return slice(int(arrays["directory"][buckets[field]]), int(arrays["directory"][buckets[field + 1]]))


def _places(arrays: Any, field: int) -> NDArray[np.uint64]:
    """Bucket (high half) and fingerprint (low half) of the entries of a field, ascending."""
    first, last = arrays["buckets"][field], arrays["buckets"][field + 1]
    sizes = np.diff(arrays["directory"][first : last + 1].astype(np.int64))
    bucket = np.repeat(np.arange(last - first, dtype=np.uint64), sizes)
    fingerprints = arrays["entries"][_entry_range(arrays, field), 0].astype(np.uint64)
    places: NDArray[np.uint64] = bucket << np.uint64(32) | fingerprints
    return places


def _shrunk(places: NDArray[np.uint64], factor: int) -> NDArray[np.uint64]:
    """The places when `factor` neighboring buckets became one: the bucket of a hash scales with their number."""
    bucket = (places >> np.uint64(32)) // np.uint64(factor)
    shrunk: NDArray[np.uint64] = bucket << np.uint64(32) | (places & np.uint64(0xFFFFFFFF))
    return shrunk


def _merged(places: NDArray[np.uint64], buckets: int) -> tuple[int, NDArray[np.uint64]]:
    """Merge buckets in pairs as long as they are not too full and no two values get one place."""
    while buckets % 2 == 0 and buckets // 2 * VALUES_PER_BUCKET >= len(places) and buckets > 1:
        merged = _shrunk(places, 2)
        if len(np.unique(merged)) < len(places):
            break
        buckets, places = buckets // 2, merged
    return buckets, places
