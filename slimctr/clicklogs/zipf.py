"""Draws from a bounded Zipf distribution over any number of ids in constant memory."""

import numpy as np


def draw_zipf(generator: np.random.Generator, count: int, size: int, exponent: float) -> np.ndarray:
    """Draw int64 (count,) from 0 … size - 1 with probability proportional to (id + 1)^-exponent.

    Rejection-inversion (Hörmann and Derflinger 1996, "Rejection-inversion to generate variates from monotone
    discrete distributions"): invert the integral of the continuous density, round, and reject what rounding
    favors.
    """
    area_all = _area(size + 0.5, exponent)
    area_first = _area(1.5, exponent) - 1.0
    # A value whose rounding moved it by less than this is always accepted, which spares most of the exact tests.
    sure = 2 - float(_inverse_area(_area(2.5, exponent) - 2.0**-exponent, exponent))
    drawn = np.empty(0, np.int64)
    while len(drawn) < count:
        area = area_all + generator.random(count) * (area_first - area_all)
        continuous = _inverse_area(area, exponent)
        rank = np.clip(np.floor(continuous + 0.5), 1, size)
        accepted = rank - continuous <= sure
        unsure = np.flatnonzero(~accepted)
        accepted[unsure] = area[unsure] >= _area(rank[unsure] + 0.5, exponent) - rank[unsure] ** -exponent
        drawn = np.concatenate([drawn, rank[accepted].astype(np.int64) - 1])
    return drawn[:count]


def _area(x: np.ndarray | float, exponent: float) -> np.ndarray | float:
    """Integral of t^-exponent from 1 to x."""
    return np.log(x) if exponent == 1 else (x ** (1 - exponent) - 1) / (1 - exponent)


def _inverse_area(area: np.ndarray | float, exponent: float) -> np.ndarray | float:
    return np.exp(area) if exponent == 1 else (area * (1 - exponent) + 1) ** (1 / (1 - exponent))
