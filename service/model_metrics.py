"""Shows the state, bytes and make of loaded versions in the metrics."""

import numpy as np
import numpy.typing as npt

from model_store.manifest import Manifest
from service.telemetry.metrics import Metrics
from service.versions import Version
from slimctr.features import FeatureSchema


class ModelMetrics:
    """Writes the gauges of `model_…`, `table_…`, `compression_ratio` and the counter of looked-up values."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def loaded(self, version: Version) -> None:
        """Show a version that became READY."""
        serving = version.serving
        if serving is None:
            return
        manifest, named = serving.manifest, {"model": version.model, "version": str(version.number)}
        self._metrics.model_ready.labels(**named).set(1)
        self._metrics.model_info.labels(**named, **make_of(manifest)).set(1)
        self._metrics.model_load_duration_seconds.labels(version.model).observe(serving.load_s)
        self._metrics.parity_max_abs_logit_diff.labels(**named).set(serving.parity_max_abs_logit_diff)
        for kind, ratio in serving.scorer.ratios.items():
            self._metrics.compression_ratio.labels(**named, kind=kind).set(ratio)
        for (field, codec), size in table_bytes(manifest).items():
            self._metrics.table_payload_bytes.labels(**named, field=field, codec=codec).set(size)
        self.memory(version)

    def failed(self, version: Version) -> None:
        """Show a version that did not pass its gates."""
        self._metrics.model_ready.labels(model=version.model, version=str(version.number)).set(0)

    def memory(self, version: Version) -> None:
        """Show the bytes of a version by kind."""
        for kind, size in version.memory_bytes.items():
            self._metrics.model_memory_bytes.labels(version.model, str(version.number), kind).set(size)

    def looked_up(self, model: str, schema: FeatureSchema, totals: npt.NDArray[np.int64]) -> None:
        """Add the values of each field by outcome; `totals` (3, F): all values, those OOV, those missing."""
        values, oov, missing = totals
        for outcome, counts in (("hit", values - oov - missing), ("oov", oov), ("missing", missing)):
            for field, count in zip(schema.names, counts.tolist(), strict=True):
                if count:
                    self._metrics.embedding_rows_total.labels(model, field, outcome).inc(count)


def make_of(manifest: Manifest) -> dict[str, str]:
    """Return codec, bits, rank and digest of a version as the labels of `model_info`; several values joined by `+`."""
    embeddings = [table for table in manifest.tables if table.role == "embedding"]
    bits = set().union(*(table.value_bits for table in embeddings))
    dims = sorted({table.dim for table in embeddings})
    return {
        "codec": "+".join(sorted({table.codec for table in embeddings})),
        "bits": "+".join(str(width) for width in sorted(bits)),
        "rank": str(dims[0]) if len(dims) == 1 else f"{dims[0]}-{dims[-1]}" if dims else "",
        "digest12": manifest.files["tables.safetensors"].sha256[:12],
    }


def table_bytes(manifest: Manifest) -> dict[tuple[str, str], int]:
    """Return the bytes of the codes by field and codec; they add up to the payload."""
    sizes: dict[tuple[str, str], int] = {}
    for table in manifest.tables:
        key = (table.field, table.codec)
        sizes[key] = sizes.get(key, 0) + table.codes_bytes
    return sizes
