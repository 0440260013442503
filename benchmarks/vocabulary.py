"""Bytes per value, error rate and lookup speed of the vocabulary: `python benchmarks/vocabulary.py`."""

import tempfile
import time
from pathlib import Path

import numpy as np

from model_store.tensors import map_tensors
from slimctr.features import Encoder, FeatureSchema, TextColumn, Vocabulary
from slimctr.native.keys import hash_text

SIZES = (10_000, 1_000_000)
UNLISTED = 50_000_000
PROBES = 1_000_000
REPEATS = 5
SHORT_BITS = 16
SCHEMA = FeatureSchema.parse({"fields": [{"name": "site", "kind": "categorical"}]})


def measure(values: int, folder: Path) -> str:
    path = folder / "vocabulary.safetensors"
    start = time.perf_counter()
    Vocabulary.build(SCHEMA, {"site": TextColumn.of([str(i) for i in range(values)])}).save(path)
    build_seconds = time.perf_counter() - start
    vocabulary = Vocabulary.open(path, SCHEMA)
    encoder = Encoder(SCHEMA, vocabulary)
    rng = np.random.default_rng(1)
    integers = rng.integers(0, values, PROBES)
    text = TextColumn.of([str(i) for i in integers])
    cells = (
        f"{values:,}",
        f"{path.stat().st_size / values:.2f}",
        f"{vocabulary.false_positive_rate():.1e}",
        f"{short_fingerprint_rate(path, values):.1e}",
        f"{false_positives(encoder, values)} of {UNLISTED:,}",
        f"{lookups_per_second(encoder, text) / 1e6:.0f} M/s",
        f"{lookups_per_second(encoder, integers) / 1e6:.0f} M/s",
        f"{build_seconds:.2f} s",
    )
    return f"| {' | '.join(cells)} |"


def false_positives(encoder: Encoder, values: int) -> int:
    """Unlisted values that got the row of a listed one."""
    found = 0
    for start in range(values, values + UNLISTED, PROBES):
        found += np.count_nonzero(encoder.encode_columns({"site": np.arange(start, start + PROBES)}).ids)
    return found


def short_fingerprint_rate(path: Path, values: int) -> float:
    """Rate at which unlisted values agree with the low 16 bits of a fingerprint, scaled to all 32 bits."""
    arrays = map_tensors(path)
    unlisted = TextColumn.of([str(i) for i in range(values, values + 4 * PROBES)])
    hashes = hash_text(unlisted.data, unlisted.starts, unlisted.ends, int(arrays["seeds"][0]))
    buckets = (hashes >> 32) * np.uint64(arrays["buckets"][-1]) >> 32
    first, last = arrays["directory"][buckets].astype(np.int64), arrays["directory"][buckets + 1]
    agree = np.zeros(len(hashes), bool)
    for slot in range(int((last - first).max())):
        entry = np.minimum(first + slot, len(arrays["entries"]) - 1)
        same = (arrays["entries"][entry, 0] ^ hashes) % 2**SHORT_BITS == 0
        agree |= same & (first + slot < last)
    return float(agree.mean()) / 2 ** (32 - SHORT_BITS)


def lookups_per_second(encoder: Encoder, column: TextColumn | np.ndarray) -> float:
    """Best of a few passes on one thread, hashing and all checks of the encoder included."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        encoder.encode_columns({"site": column})
        seconds.append(time.perf_counter() - start)
    return PROBES / min(seconds)


def main() -> None:
    print(
        "| values | bytes/value | expected errors | measured errors | errors seen | text | integers | build |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for values in SIZES:
            print(measure(values, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
