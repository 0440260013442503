"""Generates click logs of any size: Criteo's cardinalities, Zipf popularity, known click probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from slimctr.clicklogs.mixing import check_seed, mix64, uniform
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import LABEL_COLUMN
from slimctr.clicklogs.zipf import draw_zipf
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import FeatureSchema, Field

CRITEO_CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306,
    10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
"""Distinct values of C1 to C26 in Criteo's Kaggle log, as published with the DLRM reference implementation."""

MAX_IDS = 100_000_000
BLOCK_ROWS = 1 << 16
MOST_FIELDS = 1_000
CALIBRATION_BLOCK = 2**32
TOKEN_ROWS = 1 << 20
WEIGHT_STREAMS = 64
LANES = np.array([0, 16, 32, 48], np.uint64)


@dataclass(frozen=True)
class SyntheticSpec:
    """A synthetic log.

    `ids`: distinct values that all fields together can take (None: Criteo's 33.8 million). `all_ids`: list
    all of them in the vocabulary, also those that no training row holds. `popularity` is the Zipf exponent,
    `logit_std` the standard deviation of the true logit over rows, `latent_dims` the width of the interaction
    vectors.
    """

    rows: int = 1_000_000
    ids: int | None = None
    all_ids: bool = False
    seed: int = 0
    click_rate: float = 0.25
    popularity: float = 1.1
    logit_std: float = 1.5
    latent_dims: int = 4
    cardinalities: tuple[int, ...] = CRITEO_CARDINALITIES

    def __post_init__(self) -> None:
        check_seed(self.seed)
        sizes = self.cardinalities
        if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= MOST_FIELDS:
            raise ConfigError(
                f"cardinalities of a synthetic log are 1 to {MOST_FIELDS} numbers, got {sizes!r}"
            )
        for size in sizes:
            _require("cardinalities", size, int, 1, MAX_IDS)
        _require("rows", self.rows, int, 1, 10**12)
        _require("click_rate", self.click_rate, float, 1e-6, 1 - 1e-6)
        _require("popularity", self.popularity, float, 1e-6, 10)
        _require("logit_std", self.logit_std, float, 0, 100)
        _require("latent_dims", self.latent_dims, int, 1, 4 * (WEIGHT_STREAMS - 1))
        if self.ids is not None:
            _require("ids", self.ids, int, 2 * len(sizes), MAX_IDS)
        if not isinstance(self.all_ids, bool):
            raise ConfigError(f"all_ids of a synthetic log is true or false, got {self.all_ids!r}")


class SyntheticLog:
    """A click log that is drawn block by block; block b depends on the seed and b alone, so passes agree.

    Field f holds ids 0 … n_f - 1 with Zipf popularity, written as eight hex digits. The true logit is that of
    a logistic factorization machine, bias + Σ w_f(id) + Σ_{f<g} <v_f(id), v_g(id)>, shifted and scaled to the
    wanted click rate and spread. Weights are hashes of (seed, field, id), so no table of ids is ever held.
    """

    left_out: tuple[str, ...] = ()

    def __init__(self, spec: SyntheticSpec):
        self.spec = spec
        self.fraction = 0.0
        self.cardinalities = (
            spec.cardinalities if spec.ids is None else scale_cardinalities(spec.cardinalities, spec.ids)
        )
        self._positions = {f"C{number + 1}": number for number in range(len(self.cardinalities))}

    def infer_schema(self) -> FeatureSchema:
        """Return categorical fields C1, C2, …"""
        return FeatureSchema(fields=tuple(Field(name=name, kind="categorical") for name in self._positions))

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches of up to BLOCK_ROWS rows (see ClickLog)."""
        unknown = sorted(set(schema.names) - set(self._positions))
        if unknown:
            known = f"C1 to C{len(self._positions)}"
            raise LogFormatError(f"the synthetic log has the fields {known} and no {', '.join(unknown)}")
        for ids, labels, _ in self.draw():
            positions = [self._positions[name] for name in schema.names]
            columns = [hex_tokens(ids[:, position], position) for position in positions]
            names = [LABEL_COLUMN, *schema.names]
            yield pa.RecordBatch.from_arrays([pa.array(labels), *columns], names=names)

    def every_value(self, field: str) -> Iterator[pa.Array]:
        """Yield all values that a field can take, most popular first, in pieces."""
        position = self._positions[field]
        size = self.cardinalities[position]
        for start in range(0, size, TOKEN_ROWS):
            yield hex_tokens(np.arange(start, min(start + TOKEN_ROWS, size)), position)

    def draw(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield ids int64 (B, F), labels int8 (B,), true click probabilities float64 (B,), block by block."""
        scale, bias = self._calibration
        for block, start in enumerate(range(0, self.spec.rows, BLOCK_ROWS)):
            count = min(BLOCK_ROWS, self.spec.rows - start)
            generator = np.random.default_rng([self.spec.seed, block])
            ids = self._ids(generator)[:count]
            probability = _sigmoid(scale * self._unscaled_logits(ids) + bias)
            labels = (generator.random(BLOCK_ROWS)[:count] < probability).astype(np.int8)
            self.fraction = (start + count) / self.spec.rows
            yield ids, labels, probability

    @cached_property
    def _calibration(self) -> tuple[float, float]:
        """Scale and bias that give the wanted spread and click rate, found on rows that no block contains."""
        logits = self._unscaled_logits(self._ids(np.random.default_rng([self.spec.seed, CALIBRATION_BLOCK])))
        scale = self.spec.logit_std / max(float(logits.std()), 1e-12)
        low, high = (sign * 50.0 - scale * float(logits.mean()) for sign in (-1, 1))
        while high - low > 1e-9:
            middle = (low + high) / 2
            if _sigmoid(scale * logits + middle).mean() < self.spec.click_rate:
                low = middle
            else:
                high = middle
        return scale, low

    def _ids(self, generator: np.random.Generator) -> np.ndarray:
        """Draw ids int64 (BLOCK_ROWS, F)."""
        ids = np.empty((BLOCK_ROWS, len(self.cardinalities)), np.int64, order="F")
        for field, size in enumerate(self.cardinalities):
            ids[:, field] = draw_zipf(generator, BLOCK_ROWS, size, self.spec.popularity)
        return ids

    def _unscaled_logits(self, ids: np.ndarray) -> np.ndarray:
        """Return the factorization machine of ids (B, F) before scaling and bias, float64 (B,)."""
        rows, fields = ids.shape
        dims = self.spec.latent_dims
        linear = np.zeros(rows)
        total = np.zeros((rows, dims))
        squares = np.zeros((rows, dims))
        for field in range(fields):
            linear += _centered(uniform(self._hashes(field, ids[:, field], stream=0)))
            vectors = self._vectors(field, ids[:, field])
            total += vectors
            squares += vectors**2
        interactions = 0.5 * (total**2 - squares).sum(axis=1)
        # Each part gets variance 1 for independent weights: F terms, and dims * F (F - 1) / 2 products.
        return linear / np.sqrt(fields) + interactions / np.sqrt(max(dims * fields * (fields - 1) / 2, 1))

    def _vectors(self, field: int, ids: np.ndarray) -> np.ndarray:
        """Return interaction vectors (B, dims), four components from the 16-bit lanes of each hash."""
        hashes = [
            self._hashes(field, ids, 1 + word) for word in range(-(-self.spec.latent_dims // len(LANES)))
        ]
        lanes = np.concatenate([(words[:, None] >> LANES) & np.uint64(0xFFFF) for words in hashes], axis=1)
        return _centered((lanes[:, : self.spec.latent_dims] + 0.5) / 65_536)

    def _hashes(self, field: int, ids: np.ndarray, stream: int) -> np.ndarray:
        key = np.uint64((self.spec.seed << 24) + field * WEIGHT_STREAMS + stream + 1)
        with np.errstate(over="ignore"):
            return mix64(ids.astype(np.uint64) + mix64(key))


def scale_cardinalities(cardinalities: tuple[int, ...], total: int) -> tuple[int, ...]:
    """Return cardinalities n^p, at least 2, with the one exponent p that makes their sum `total`.

    A power keeps small fields small and lets the large ones carry the change; the largest absorbs the
    rounding.
    """
    sizes = np.array(cardinalities, np.float64)
    low, high = 0.0, 4.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(sizes**middle, 2).sum() < total else (low, middle)
    scaled = np.maximum(np.rint(sizes**low), 2).astype(np.int64)
    scaled[scaled.argmax()] += total - scaled.sum()
    return tuple(int(size) for size in scaled)


def hex_tokens(ids: np.ndarray, field: int) -> pa.Array:
    """Return ids (B,) as eight hex digits each: a bijection of 32-bit numbers that differs between fields."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint32) ^ np.uint32(mix64(np.uint64(field + 1)) >> np.uint64(32))
        z = (z ^ (z >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        z = (z ^ (z >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        z ^= z >> np.uint32(16)
    nibbles = (z[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)) & np.uint32(15)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles]
    offsets = np.arange(0, 8 * len(ids) + 1, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(digits))


def _require(name: str, value: object, kind: type[int] | type[float], least: float, most: float) -> None:
    """Raise ConfigError unless a setting is a number of its kind within its bounds."""
    fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not fits or not least <= value <= most:  # type: ignore[operator]
        told = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} of a synthetic log is {told} from {least:,} to {most:,}, got {value!r}")


def _centered(values: np.ndarray) -> np.ndarray:
    """Stretch uniform values in (0, 1) to mean 0 and variance 1."""
    return (values - 0.5) * np.sqrt(12.0)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))
