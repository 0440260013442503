"""The proportional memory of this process, read from the kernel at every scrape."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

METRIC = "slimctr_process_pss_bytes"


def parse_pss_bytes(smaps_rollup: str) -> int | None:
    """Return the `Pss:` line of a `/proc/PID/smaps_rollup` in bytes, None when there is none."""
    for line in smaps_rollup.splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return int(rest.split()[0]) * 1024
    return None


class ProportionalMemoryCollector(Collector):
    """Export the proportional set size: like resident memory, but a page shared by n processes counts 1/n.

    Exports nothing where the kernel does not tell it.
    """

    def __init__(self, smaps_rollup: Path = Path("/proc/self/smaps_rollup")) -> None:
        self._smaps_rollup = smaps_rollup

    def describe(self) -> Iterable[Metric]:
        """Name the metric without reading the kernel."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """Read the current value."""
        try:
            pss_bytes = parse_pss_bytes(self._smaps_rollup.read_text())
        except OSError:
            return []
        if pss_bytes is None:
            return []
        family = self._family()
        family.add_metric([], pss_bytes)
        return [family]

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(METRIC, "Proportional set size: pages shared by n processes count 1/n.")
