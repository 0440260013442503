"""Generates a click log of any size with Criteo's field cardinalities, Zipf popularity and a known click probability."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import LABEL_COLUMN
from slimctr.clicklogs.splits import mix64
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import FeatureSchema, Field

CRITEO_CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
"""Distinct values of C1 to C26 in the Kaggle log, as published with the DLRM reference implementation."""

MAX_IDS = 100_000_000
BLOCK_ROWS = 1 << 16
CALIBRATION_ROWS = 1 << 16
CALIBRATION_BLOCK = 2**32


@dataclass(frozen=True)
class SyntheticSpec:
    """A synthetic log.

    `ids`: distinct values that all fields together can take (None: Criteo's 33.8 million). `popularity` is the Zipf
    exponent, `logit_std` the standard deviation of the true logit over rows, `latent_dims` the width of the
    interaction vectors.
    """

    rows: int = 1_000_000
    ids: int | None = None
    seed: int = 0
    click_rate: float = 0.25
    popularity: float = 1.1
    logit_std: float = 1.5
    latent_dims: int = 4
    cardinalities: tuple[int, ...] = CRITEO_CARDINALITIES

    def __post_init__(self) -> None:
        if (
            self.rows < 1
            or not 0 < self.click_rate < 1
            or not 0 < self.popularity < 10
            or self.latent_dims < 1
        ):
            raise ConfigError(
                "a synthetic log needs rows >= 1, a click rate between 0 and 1, a popularity exponent between 0 and 10 "
                "and at least one latent dimension"
            )
        if self.ids is not None and not 2 * len(self.cardinalities) <= self.ids <= MAX_IDS:
            raise ConfigError(f"--ids must lie between {2 * len(self.cardinalities)} and {MAX_IDS:,}")


class SyntheticLog:
    """A click log that is drawn block by block; block b depends on the seed and b alone, so passes agree.

    Field f holds ids 0 … n_f - 1 with Zipf popularity, written as eight hex digits. The true logit is that of a
    logistic factorization machine, bias + Σ w_f(id) + Σ_{f<g} <v_f(id), v_g(id)>, shifted and scaled to the wanted
    click rate and spread. Weights are hashes of (seed, field, id), so no table of ids is ever held.
    """

    def __init__(self, spec: SyntheticSpec):
        self.spec = spec
        self.fraction = 0.0
        self.cardinalities = (
            spec.cardinalities if spec.ids is None else scale_cardinalities(spec.cardinalities, spec.ids)
        )

    def infer_schema(self) -> FeatureSchema:
        """Return categorical fields C1, C2, …"""
        names = (f"C{number}" for number in range(1, len(self.cardinalities) + 1))
        return FeatureSchema(fields=tuple(Field(name=name, kind="categorical") for name in names))

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches of up to BLOCK_ROWS rows (see ClickLog)."""
        positions = {f"C{number + 1}": number for number in range(len(self.cardinalities))}
        unknown = sorted(set(schema.names) - set(positions))
        if unknown:
            raise LogFormatError(
                f"the synthetic log has fields C1 to C{len(positions)}, so no {', '.join(unknown)}"
            )
        for ids, labels, _ in self.draw():
            columns = [hex_tokens(ids[:, positions[name]], positions[name]) for name in schema.names]
            yield pa.RecordBatch.from_arrays(
                [pa.array(labels), *columns], names=[LABEL_COLUMN, *schema.names]
            )

    def draw(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield ids int64 (B, F), labels int8 (B,) and true click probabilities float64 (B,), block by block."""
        for block, start in enumerate(range(0, self.spec.rows, BLOCK_ROWS)):
            count = min(BLOCK_ROWS, self.spec.rows - start)
            generator = np.random.default_rng([self.spec.seed, block])
            ids = self._ids(generator, BLOCK_ROWS)[:count]
            scale, bias = self._calibration
            probability = 1 / (1 + np.exp(-(scale * self._raw_logits(ids) + bias)))
            labels = (generator.random(BLOCK_ROWS)[:count] < probability).astype(np.int8)
            self.fraction = (start + count) / self.spec.rows
            yield ids, labels, probability

    @cached_property
    def _calibration(self) -> tuple[float, float]:
        """Scale and bias that give the wanted spread and click rate, on rows that no block contains."""
        generator = np.random.default_rng([self.spec.seed, CALIBRATION_BLOCK])
        raw = self._raw_logits(self._ids(generator, CALIBRATION_ROWS))
        scale = self.spec.logit_std / max(float(raw.std()), 1e-12)
        low, high = -50.0, 50.0
        centered = scale * (raw - raw.mean())
        for _ in range(60):
            middle = (low + high) / 2
            too_low = (1 / (1 + np.exp(-(centered + middle)))).mean() < self.spec.click_rate
            low, high = (middle, high) if too_low else (low, middle)
        return scale, (low + high) / 2 - scale * float(raw.mean())

    def _ids(self, generator: np.random.Generator, count: int) -> np.ndarray:
        drawn = [draw_zipf(generator, count, size, self.spec.popularity) for size in self.cardinalities]
        return np.stack(drawn, axis=1)

    def _raw_logits(self, ids: np.ndarray) -> np.ndarray:
        """Return the factorization machine of ids (B, F) before scaling, float64 (B,)."""
        fields = ids.shape[1]
        dims = self.spec.latent_dims
        linear = np.zeros(len(ids))
        total = np.zeros((len(ids), dims))
        squares = np.zeros((len(ids), dims))
        for field in range(fields):
            linear += self._weights(field, ids[:, field], component=0)
            for dim in range(dims):
                vector = self._weights(field, ids[:, field], component=1 + dim)
                total[:, dim] += vector
                squares[:, dim] += vector**2
        interactions = 0.5 * (total**2 - squares).sum(axis=1)
        # Both parts get unit variance for independent weights: F terms, and dims * F (F - 1) / 2 products.
        return linear / np.sqrt(fields) + interactions / np.sqrt(max(dims * fields * (fields - 1) / 2, 1))

    def _weights(self, field: int, ids: np.ndarray, component: int) -> np.ndarray:
        """Return hashed weights (B,), uniform with mean 0 and variance 1."""
        with np.errstate(over="ignore"):
            stream = mix64(np.uint64(self.spec.seed * 65_536 + field * 64 + component + 1))
            uniform = (mix64(ids.astype(np.uint64) + stream) >> np.uint64(11)) * 2.0**-53
        return (uniform - 0.5) * np.sqrt(12.0)


def scale_cardinalities(cardinalities: tuple[int, ...], total: int) -> tuple[int, ...]:
    """Return cardinalities n^p, at least 2, with the one exponent p that makes their sum `total`.

    A power keeps small fields small and lets the large ones carry the change; the largest absorbs the rounding.
    """
    sizes = np.array(cardinalities, np.float64)
    low, high = 0.0, 4.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(sizes**middle, 2).sum() < total else (low, middle)
    scaled = np.maximum(np.rint(sizes**low), 2).astype(np.int64)
    scaled[scaled.argmax()] += total - scaled.sum()
    return tuple(int(size) for size in scaled)


def draw_zipf(generator: np.random.Generator, count: int, size: int, exponent: float) -> np.ndarray:
    """Draw int64 (count,) from 0 … size - 1 with probability proportional to (id + 1)^-exponent.

    Rejection-inversion (Hörmann and Derflinger 1996): constant memory for any size.
    """

    def integral(x: np.ndarray | float) -> np.ndarray | float:
        logarithm = np.log(x)
        if abs(exponent - 1) < 1e-9:
            return logarithm
        return np.expm1((1 - exponent) * logarithm) / (1 - exponent)

    def inverse(y: np.ndarray) -> np.ndarray:
        if abs(exponent - 1) < 1e-9:
            return np.exp(y)
        return np.exp(np.log1p(np.maximum(y * (1 - exponent), -1 + 1e-15)) / (1 - exponent))

    top = integral(size + 0.5)
    bottom = integral(1.5) - 1.0
    drawn = np.empty(0, np.int64)
    while len(drawn) < count:
        y = top + generator.random(count) * (bottom - top)
        x = inverse(y)
        rank = np.clip(np.floor(x + 0.5), 1, size)
        accepted = y >= integral(rank + 0.5) - rank**-exponent
        drawn = np.concatenate([drawn, rank[accepted].astype(np.int64) - 1])
    return drawn[:count]


def hex_tokens(ids: np.ndarray, field: int) -> pa.Array:
    """Return ids (B,) as strings of eight hex digits: a bijection of 32-bit numbers that differs between fields."""
    with np.errstate(over="ignore"):
        z = ids.astype(np.uint32) ^ np.uint32(mix64(np.uint64(field + 1)) >> np.uint64(32))
        z = (z ^ (z >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        z = (z ^ (z >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        z ^= z >> np.uint32(16)
    nibbles = (z[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)) & np.uint32(15)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles]
    offsets = np.arange(0, 8 * len(ids) + 1, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(ids), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits))
    )
