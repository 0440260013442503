"""Counts the keys of a field in memory that grows with the distinct keys and not with the log."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimctr.errors import ConfigError
from slimctr.features import key_of_text

WAITING_KEYS = 1 << 18
MAX_KEY_BYTES = 2**31 - 1
_SHOWN_CHARACTERS = 60


_OTHER_FORM = r"^(?:-?(?:0|[1-9][0-9]*)\.0+|-0|True|TRUE|False|FALSE)$"
_ODD_TEXTS = {
    r"""^(?s:".*"|'.*')$""": "stand in quotes, which are part of the value: only csv has quotes, and only double ones",
    r"^(?s:\s.*|.*\s)$": "begin or end with a space, which is part of the value: a request has to send it too",
    r"^(?:\\N|(?i:null|none|nan|<na>|n/a))$": "are text like any other: a missing value is an empty cell or a null",
}
_ANY = "|".join([_OTHER_FORM, *_ODD_TEXTS])


class KeyForms:
    """Turns the values of a field into keys as `features.key_of_text` does; counts those that may surprise."""

    def __init__(self) -> None:
        self._values = 0
        self._found: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def keys(self, counted: pa.StructArray) -> pa.Array:
        """Return the keys of distinct `values` that occur `counts` times, in their order."""
        values, counts = counted.field("values"), counted.field("counts")
        self._values += pc.sum(counts.filter(pc.not_equal(values, ""))).as_py() or 0
        if not pc.any(pc.match_substring_regex(values, _ANY)).as_py():
            return values
        for pattern in (_OTHER_FORM, *_ODD_TEXTS):
            found = pc.match_substring_regex(values, pattern)
            if pc.any(found).as_py():
                self._found[pattern] = self._found.get(pattern, 0) + pc.sum(counts.filter(found)).as_py()
                self._examples.setdefault(pattern, values.filter(found)[0].as_py())
        other = pc.match_substring_regex(values, _OTHER_FORM)
        keys = pc.utf8_lower(pc.replace_substring_regex(values, r"\.0+$", ""))
        return pc.if_else(other, pc.if_else(pc.equal(keys, "-0"), "0", keys), values)

    def warnings(self, field: str) -> list[str]:
        """Say how many values were written otherwise, and how many look like something else than they are."""
        said = []
        for pattern, count in self._found.items():
            example = self._examples[pattern]
            what = _ODD_TEXTS.get(pattern) or (
                f"count as {key_of_text(example)!r}: whole numbers and booleans have one key each, here, in Parquet and "
                "in requests"
            )
            share = f"field '{field}': {count / self._values:.2%} of its training values"
            said.append(f"{share}, such as {example[:_SHOWN_CHARACTERS]!r}, {what}")
        return said


class KeyCounter:
    """Occurrences of the keys of one field.

    Every batch is reduced to its distinct keys; these wait until as many wait as are merged already (at least
    WAITING_KEYS), then one grouping merges them. docs/data.md has the memory per distinct key. Waiting and merged keys
    of a field must fit into MAX_KEY_BYTES, the reach of 32-bit offsets, with which grouping is several times faster
    than with 64-bit ones.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self.forms = KeyForms()
        self._merged = _SCHEMA.empty_table()
        self._waiting: list[pa.Table] = []
        self._waiting_keys = 0

    def add(self, keys: pa.Array) -> None:
        """Count a string array (n,); null is the empty key, and values in another form count as their key."""
        counted = pc.value_counts(pc.fill_null(keys, ""))
        self._wait(self.forms.keys(counted), counted.field("counts"))

    def add_unseen(self, keys: pa.Array) -> None:
        """List a string array (n,) of distinct keys without counting them: `listed(0)` returns them too."""
        self._wait(keys, pa.repeat(pa.scalar(0, pa.int64()), len(keys)))

    def listed(self, min_count: int) -> pa.StringArray:
        """Return the keys that occur at least `min_count` times: most frequent first, ties by key bytes."""
        self._merge()
        kept = self._merged.filter(pc.field("count") >= min_count).combine_chunks()
        keys = pa.concat_arrays(kept.column("key").chunks) if kept.num_rows else pa.array([], pa.string())
        by_key = pc.array_sort_indices(keys).to_numpy()
        by_count = np.argsort(-kept.column("count").to_numpy()[by_key], kind="stable")
        return keys.take(pa.array(by_key[by_count]))

    def _wait(self, keys: pa.Array, counts: pa.Array) -> None:
        self._waiting.append(pa.Table.from_arrays([keys, counts], schema=_SCHEMA))
        self._waiting_keys += len(keys)
        if self._waiting_keys > max(WAITING_KEYS, self._merged.num_rows):
            self._merge()

    def _merge(self) -> None:
        both = pa.concat_tables([self._merged, *self._waiting])
        self._waiting.clear()
        self._waiting_keys = 0
        if both.column("key").nbytes > MAX_KEY_BYTES:
            raise ConfigError(
                f"the distinct values of field '{self._field}' exceed 2 GB: hash it (--hash FIELD=ROWS)"
            )
        sums = both.group_by("key", use_threads=False).aggregate([("count", "sum")])
        self._merged = sums.select(["key", "count_sum"]).rename_columns(["key", "count"]).cast(_SCHEMA)


_SCHEMA = pa.schema([("key", pa.string()), ("count", pa.int64())])
