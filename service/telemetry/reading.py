"""One look at all metrics of the process, and the questions a comparison asks of it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

Labels = dict[str, str]


@dataclass(frozen=True)
class Bucket:
    """A cumulative histogram bucket: observations up to and with `upper_bound`."""

    upper_bound: float
    cumulative: float


class Reading:
    """The samples of metric families at one time (`taken_at`, seconds of any steady clock), found by name."""

    def __init__(self, families: Iterable[Metric], taken_at: float) -> None:
        self.taken_at = taken_at
        self._samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def only(self, names: Collection[str]) -> "Reading":
        """Return a reading that keeps nothing but the samples called one of `names`."""
        kept = Reading((), self.taken_at)
        kept._samples.update({name: found for name, found in self._samples.items() if name in names})
        return kept

    def series(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """Yield labels and value of every sample `name` that carries `labels`."""
        for found, value in self._samples.get(name, ()):
            if labels.items() <= found.items():
                yield found, value

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over those samples, 0.0 when there are none."""
        return sum(value for _, value in self.series(name, **labels))

    def value(self, name: str, **labels: str) -> float | None:
        """Return the only such sample's value; None when there is none."""
        return next((value for _, value in self.series(name, **labels)), None)

    def buckets(self, histogram: str, **labels: str) -> list[Bucket]:
        """Return the cumulative buckets of `histogram`, summed over its series with `labels`, by bound."""
        sums: dict[float, float] = defaultdict(float)
        for found, value in self.series(f"{histogram}_bucket", **labels):
            sums[float(found["le"])] += value
        return [Bucket(bound, sums[bound]) for bound in sorted(sums)]


def since(earlier: Sequence[Bucket], later: Sequence[Bucket]) -> list[Bucket]:
    """Return the buckets of the observations between two readings of one histogram."""
    before = {bucket.upper_bound: bucket.cumulative for bucket in earlier}
    return [Bucket(b.upper_bound, b.cumulative - before.get(b.upper_bound, 0.0)) for b in later]


def quantile(buckets: Sequence[Bucket], share: float) -> float | None:
    """Return the value below which `share` of the observations lie, linear inside a bucket as PromQL has it.

    None without observations, and when the quantile lies beyond the last finite bound.
    """
    if not buckets or buckets[-1].cumulative <= 0:
        return None
    rank = share * buckets[-1].cumulative
    lower_bound, below = 0.0, 0.0
    for bucket in buckets:
        if bucket.cumulative >= rank and bucket.cumulative > below:
            if bucket.upper_bound == float("inf"):
                return None
            inside = (rank - below) / (bucket.cumulative - below)
            return lower_bound + (bucket.upper_bound - lower_bound) * inside
        lower_bound, below = bucket.upper_bound, bucket.cumulative
    return None
