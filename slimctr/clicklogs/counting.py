"""Counts the keys of a field in memory that grows with the distinct keys and not with the log."""

import pyarrow as pa
import pyarrow.compute as pc

PENDING_KEYS = 1 << 18


class KeyCounter:
    """Occurrences of the keys of one field.

    Every batch is reduced to its distinct keys; these wait until as many wait as are merged (at least
    PENDING_KEYS), then one grouping merges them. A distinct key of k bytes rests at k + 16 bytes (offset and
    count); benchmarked peaks stand in docs/data.md.
    """

    def __init__(self) -> None:
        self._merged = _table([], [])
        self._waiting: list[pa.Table] = []
        self._waiting_keys = 0

    def add(self, keys: pa.Array) -> None:
        """Count a string array (n,); null is the empty key."""
        counted = pc.value_counts(pc.fill_null(keys, ""))
        self._wait(_table(counted.field("values"), counted.field("counts")))

    def _wait(self, counts: pa.Table) -> None:
        self._waiting.append(counts)
        self._waiting_keys += counts.num_rows
        if self._waiting_keys > max(PENDING_KEYS, self._merged.num_rows):
            self._merge()

    def add_unseen(self, keys: pa.Array) -> None:
        """List a string array (n,) of distinct keys without counting them: `listed(0)` returns them too."""
        self._wait(_table(keys, pa.repeat(0, len(keys))))

    def listed(self, min_count: int) -> pa.LargeBinaryArray:
        """Return the keys that occur at least `min_count` times: most frequent first, ties by key bytes."""
        self._merge()
        kept = self._merged.filter(pc.field("count") >= min_count)
        keys = kept.sort_by([("count", "descending"), ("key", "ascending")]).column("key").combine_chunks()
        return keys if isinstance(keys, pa.LargeBinaryArray) else pa.concat_arrays(keys.chunks)

    def _merge(self) -> None:
        both = pa.concat_tables([self._merged, *self._waiting])
        self._waiting.clear()
        self._waiting_keys = 0
        sums = both.group_by("key", use_threads=False).aggregate([("count", "sum")])
        self._merged = _table(sums.column("key"), sums.column("count_sum"))


def _table(keys: pa.Array | pa.ChunkedArray | list, counts: pa.Array | pa.ChunkedArray | list) -> pa.Table:
    schema = pa.schema([("key", pa.large_binary()), ("count", pa.int64())])
    return pa.table({"key": keys, "count": counts}).cast(schema) if len(keys) else schema.empty_table()
