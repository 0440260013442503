"""Principal component analysis in float64: weighted and streaming moments, ordered axes, errors of a rank."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Weight, mean (d,) and scatter (d, d) of a set of vectors; sets are joined without loss of digits.

    The scatter is the weighted sum of (y - mean)(y - mean)^T. Keeping it centered matters: a raw sum of
    squares cancels when the mean is much larger than the spread.
    """

    weight: float
    mean: Array
    scatter: Array

    @classmethod
    def empty(cls, width: int) -> "Moments":
        """Moments of no vectors of `width` entries."""
        return cls(0.0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, vectors: NDArray[np.floating], weights: NDArray[np.generic] | None = None) -> "Moments":
        """Moments of `vectors` (n, d), row i counted `weights[i]` times (once when None)."""
        values = np.asarray(vectors, dtype=np.float64)
        if weights is None:
            if not len(values):
                return cls.empty(values.shape[1])
            mean = values.mean(axis=0)
            centered = values - mean[None, :]
            return cls(float(len(values)), mean, centered.T @ centered)
        scale = np.asarray(weights, dtype=np.float64)
        if scale.shape != (len(values),):
            raise ValueError(f"{len(values)} vectors need {len(values)} weights, got shape {scale.shape}")
        total = float(scale.sum())
        if total == 0.0:
            return cls.empty(values.shape[1])
        mean = (scale / total) @ values
        centered = values - mean[None, :]
        return cls(total, mean, centered.T @ (scale[:, None] * centered))

    def merged(self, other: "Moments") -> "Moments":
        """Moments of both sets together (Chan, Golub and LeVeque's pairwise update)."""
        if self.weight == 0.0:
            return other
        if other.weight == 0.0:
            return self
        total = self.weight + other.weight
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.weight * other.weight / total)
        return Moments(
            total, self.mean + step * (other.weight / total), self.scatter + other.scatter + between
        )

    @property
    def covariance(self) -> Array:
        """Covariance (d, d): scatter over weight; zero when nothing was seen."""
        return self.scatter / self.weight if self.weight > 0.0 else self.scatter


@dataclass(frozen=True)
class Axes:
    """Eigenvalues (d,) in descending order and their unit eigenvectors as columns (d, d)."""

    eigenvalues: Array
    vectors: Array

    def basis(self, rank: int) -> Array:
        """The first `rank` axes (d, rank)."""
        return self.vectors[:, :rank]

    def tail(self, rank: int) -> float:
        """Sum of the eigenvalues after the first `rank`: the mean squared error of that rank."""
        return float(self.eigenvalues[rank:].sum())


def principal_axes(matrix: NDArray[np.floating]) -> Axes:
    """Order the eigenvectors of a symmetric positive semi-definite matrix (d, d) by falling eigenvalue.

    Signs are fixed so that the entry of largest magnitude of each axis (the first on ties) is positive. Axes
    of equal eigenvalues remain ambiguous: compare reconstructions, not axes.
    """
    values, vectors = np.linalg.eigh(np.asarray(matrix, dtype=np.float64))
    order = np.argsort(-values, kind="stable")
    values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))]
    return Axes(values, vectors * np.where(peaks < 0, -1.0, 1.0)[None, :])


def second_moment(vectors: NDArray[np.floating], weights: NDArray[np.generic] | None = None) -> Array:
    """Uncentered second moment (d, d) of `vectors` (n, d): the matrix whose axes a plain SVD gives."""
    values = np.asarray(vectors, dtype=np.float64)
    if weights is None:
        return values.T @ values / max(len(values), 1)
    scale = np.asarray(weights, dtype=np.float64)
    return values.T @ (scale[:, None] * values) / max(float(scale.sum()), np.finfo(np.float64).tiny)


def energy_rank(eigenvalues: Array, share: float) -> int:
    """The smallest rank whose axes hold at least `share` of the variance, and never less than 1."""
    total = float(eigenvalues.sum())
    if total <= 0.0:
        return 1
    held = np.cumsum(eigenvalues) / total
    return min(int(np.searchsorted(held, share - 1e-12)) + 1, len(eigenvalues))


def greedy_ranks(spectra: list[Array], rows: list[int], budget_bytes: int) -> list[int]:
    """Share a byte budget of float32 codes between tables: the next axis goes where it buys most variance.

    `spectra[t]` are the eigenvalues of table t, `rows[t]` its rows. Every table starts at rank 1; the table
    with the largest next eigenvalue / (4 * rows) gains an axis while the budget allows. Raises ValueError
    when rank 1 everywhere exceeds the budget.
    """
    ranks = [1] * len(spectra)
    spent = sum(4 * count for count in rows)
    if spent > budget_bytes:
        raise ValueError(f"rank 1 of every table takes {spent} bytes, the budget is {budget_bytes}")
    while True:
        gains = {
            table: spectrum[ranks[table]] / rows[table]
            for table, spectrum in enumerate(spectra)
            if ranks[table] < len(spectrum)
            and spectrum[ranks[table]] > 0
            and spent + 4 * rows[table] <= budget_bytes
        }
        if not gains:
            return ranks
        best = max(gains, key=gains.__getitem__)
        ranks[best] += 1
        spent += 4 * rows[best]
