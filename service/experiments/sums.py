"""Additive sums of an experiment: per kind, variant and slice of exposure time, and over all time."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from service.experiments.record import Exposure, Kind
from slimctr.quality import QualitySums, row_losses

SLICE_S = 300
# The slice that holds the sums of all time; recent slices are subtracted from it.
ALL_TIME = -1


def slice_of(time_s: float) -> int:
    """Return the number of the five-minute slice that holds a time in seconds since the epoch."""
    return int(time_s // SLICE_S)


@dataclass(frozen=True)
class Cell:
    """The place of one set of sums."""

    experiment: str
    kind: Kind
    variant: str
    slice: int


@dataclass(frozen=True, eq=False)
class CellSums:
    """Sums of one cell: rows exposed, explicit non-clicks, the quality of the decided rows.

    For the shadow variant also the paired difference of the log-loss (shadow minus served, in nats) over the
    decided rows and its square.
    """

    exposed: int = 0
    declined: int = 0
    quality: QualitySums = field(default_factory=QualitySums)
    loss_diff: float = 0.0
    loss_diff_squared: float = 0.0

    @property
    def plausible(self) -> bool:
        """Whether the counts agree with each other; they do not when a server evicted a part of them."""
        quality, (non_clicks, clicks) = self.quality, self.quality.histogram
        return (
            self.exposed >= 0
            and 0 <= quality.clicks <= quality.count
            and bool((non_clicks >= 0).all() and (clicks >= 0).all())
            and (int(non_clicks.sum()), int(clicks.sum())) == (quality.count - quality.clicks, quality.clicks)
        )

    def __add__(self, other: "CellSums") -> "CellSums":
        return CellSums(
            self.exposed + other.exposed,
            self.declined + other.declined,
            self.quality + other.quality,
            self.loss_diff + other.loss_diff,
            self.loss_diff_squared + other.loss_diff_squared,
        )

    def __sub__(self, other: "CellSums") -> "CellSums":
        return CellSums(
            self.exposed - other.exposed,
            self.declined - other.declined,
            self.quality - other.quality,
            self.loss_diff - other.loss_diff,
            self.loss_diff_squared - other.loss_diff_squared,
        )


@dataclass(frozen=True)
class SliceProgress:
    """How far a slice is decided, over all variants and kinds."""

    slice: int
    exposed: int
    decided: int
    declined: int


@dataclass
class _Rows:
    """Rows added to or taken from one cell, before they become sums."""

    clicked: list[bool] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    served_logits: list[float] = field(default_factory=list)

    def add(self, clicked: bool, logit: float, served_logit: float) -> None:
        self.clicked.append(clicked)
        self.logits.append(logit)
        self.served_logits.append(served_logit)

    def sums(self, paired: bool) -> CellSums:
        if not self.clicked:
            return CellSums()
        quality = QualitySums.of(self.clicked, self.logits)
        if not paired:
            return CellSums(quality=quality)
        diff = row_losses(self.clicked, self.logits) - row_losses(self.clicked, self.served_logits)
        return CellSums(
            quality=quality, loss_diff=float(diff.sum()), loss_diff_squared=float(np.square(diff).sum())
        )


class Tally:
    """Collect what a step changes, row by row, and turn it into one set of sums per cell."""

    def __init__(self) -> None:
        self._exposed: Counter[Cell] = Counter()
        self._declined: Counter[Cell] = Counter()
        self._added: defaultdict[Cell, _Rows] = defaultdict(_Rows)
        self._removed: defaultdict[Cell, _Rows] = defaultdict(_Rows)

    def expose(self, exposure: Exposure, rows: int | None = None) -> None:
        """Count the rows of a new exposure, or take them back with a negative count."""
        for cell in _cells(exposure):
            self._exposed[cell] += exposure.rows if rows is None else rows

    def decline(self, exposure: Exposure, count: int) -> None:
        """Count explicit non-clicks, or take them back with a negative count."""
        for cell in _cells(exposure):
            self._declined[cell] += count

    def count(self, exposure: Exposure, index: int, clicked: bool) -> None:
        """Count row `index` as decided."""
        _spread(self._added, exposure, index, clicked)

    def take_back(self, exposure: Exposure, index: int, clicked: bool) -> None:
        """Undo an earlier `count` of the row."""
        _spread(self._removed, exposure, index, clicked)

    def deltas(self) -> dict[Cell, CellSums]:
        """Return what to add to every cell, its slice's and all time's."""
        deltas: dict[Cell, CellSums] = {}
        for cell in self._exposed.keys() | self._declined.keys() | self._added.keys() | self._removed.keys():
            paired = cell.kind is Kind.SHADOW
            delta = CellSums(exposed=self._exposed[cell], declined=self._declined[cell])
            if cell in self._added:
                delta += self._added[cell].sums(paired)
            if cell in self._removed:
                delta -= self._removed[cell].sums(paired)
            deltas[cell] = delta
            whole = Cell(cell.experiment, cell.kind, cell.variant, ALL_TIME)
            deltas[whole] = deltas[whole] + delta if whole in deltas else delta
        return deltas


def _cells(exposure: Exposure) -> list[Cell]:
    number = slice_of(exposure.exposed_at)
    variants = [exposure.variant] + ([exposure.shadow_variant] if exposure.shadow_variant is not None else [])
    return [Cell(exposure.experiment, exposure.kind, variant, number) for variant in variants]


def _spread(rows: defaultdict[Cell, _Rows], exposure: Exposure, index: int, clicked: bool) -> None:
    cells = _cells(exposure)
    served_logit = float(exposure.logits[index])
    rows[cells[0]].add(clicked, served_logit, served_logit)
    if exposure.shadow_logits is not None:
        rows[cells[1]].add(clicked, float(exposure.shadow_logits[index]), served_logit)
