"""Which columns of which tables live: costs, the mask search step by step, and columns kept within a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Cost = Literal["bytes", "dims"]

START = 0.01
BOUND = 0.02
DUTY_MEMORY = 0.998


@dataclass(frozen=True)
class ColumnBudget:
    """What a column of each field costs and how many may be kept.

    `units` int64 (F,): rows of the table when bytes are counted, 1 when dims are. `ratio` is the share of the
    whole, F tables of `dim` columns, that may stay.
    """

    units: NDArray[np.int64]
    dim: int
    ratio: float

    @classmethod
    def of(cls, rows: Sequence[int], dim: int, ratio: float, cost: Cost) -> "ColumnBudget":
        """Budget of tables of `rows` rows. Raises ValueError when one column per field is already too much."""
        units = np.asarray(rows, dtype=np.int64) if cost == "bytes" else np.ones(len(rows), dtype=np.int64)
        budget = cls(units, dim, ratio)
        if budget.limit < units.sum():
            raise ValueError(f"{ratio} of {dim} columns is less than the one that every field keeps")
        return budget

    @property
    def whole(self) -> int:
        """Units of all columns of all fields."""
        return self.dim * int(self.units.sum())

    @property
    def limit(self) -> int:
        """Units that may be kept."""
        return int(self.ratio * self.whole * (1 + 1e-12))

    @property
    def costs(self) -> Array:
        """Share (F,) of the whole that one column of each field costs; all columns together cost 1."""
        return self.units / self.whole

    def share(self, mask: Mask) -> float:
        """Share of the whole that the columns of `mask` (F, D) cost."""
        return float(self.units @ mask.sum(axis=1) / self.whole)


@dataclass(frozen=True)
class MaskState:
    """The search between two steps: auxiliary values a (F, D), price q of the budget, duty s (F, D)."""

    auxiliary: Array
    price: float
    duty: Array

    @classmethod
    def initial(cls, fields: int, dim: int) -> "MaskState":
        """Every column alive, nothing paid for yet."""
        return cls(np.full((fields, dim), START), 0.0, np.ones((fields, dim)))

    @property
    def mask(self) -> Mask:
        """z = 1[a > 0]: the columns that are alive, (F, D), the same for every row of a field."""
        return self.auxiliary > 0


def step(
    state: MaskState, gradient: Array, budget: ColumnBudget, *, mask_rate: float, price_rate: float
) -> MaskState:
    """Move the search by one batch.

    With z the mask of the batch, gz (F, D) the gradient of its mean log-loss by z, and kappa_f the cost of a
    column of field f:

        a <- clip(a - eta (gz + q kappa_f), -A, A)           the gradient by z is passed straight to a
        q <- max(0, q + eta_q (sum_f kappa_f |z_f| - rho))   dual ascent on the budget
        s <- 0.998 s + 0.002 z                               how much of the time a column was alive

    Plain gradient descent on purpose: the size of gz is the signal, and an adaptive step would erase it. At a
    trained optimum gz is about 0 for a column that is alive, so without the price nothing would die; a column
    that is off sees about -2 times the loss that its absence costs, and comes back when that exceeds its price.
    HAM-style, after arXiv 2208.08004; these equations are ours.
    """
    alive = state.mask
    pressure = gradient + state.price * budget.costs[:, None]
    return MaskState(
        auxiliary=np.clip(state.auxiliary - mask_rate * pressure, -BOUND, BOUND),
        price=max(0.0, state.price + price_rate * (budget.share(alive) - budget.ratio)),
        duty=DUTY_MEMORY * state.duty + (1 - DUTY_MEMORY) * alive,
    )


def final_mask(state: MaskState, budget: ColumnBudget) -> Mask:
    """Columns kept when the search ends now: by duty, ties by the larger auxiliary value."""
    return keep_columns(state.duty, budget, ties=state.auxiliary)


def keep_columns(scores: Array, budget: ColumnBudget, ties: Array | None = None) -> Mask:
    """Keep the columns (F, D) of highest score within the budget, and the best one of every field before any.

    A column that does not fit any more is passed over for cheaper ones of lower score, so that the budget is
    used. Equal scores go by `ties`, larger first, then by field and column.
    """
    fields, dim = scores.shape
    second = np.zeros_like(scores) if ties is None else ties
    order = np.lexsort((-second.ravel(), -scores.ravel()))
    kept = np.zeros(fields * dim, dtype=bool)
    owner = order // dim
    best = order[np.unique(owner, return_index=True)[1]]
    kept[best] = True
    left = budget.limit - int(budget.units.sum())
    for column, price in zip(order.tolist(), budget.units[owner].tolist(), strict=True):
        if not kept[column] and price <= left:
            kept[column] = True
            left -= price
    return kept.reshape(fields, dim)
