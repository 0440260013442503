"""The scorer: one open artifact that turns encoded batches into logits."""

from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from model_store.artifact import (
    GOLDEN_FILE,
    GOLDEN_VALUES_FILE,
    NETWORK_FILE,
    TABLES_FILE,
    VOCABULARY_FILE,
    Artifact,
    open_artifact,
)
from model_store.errors import IntegrityError
from model_store.manifest import Manifest
from model_store.names import MANIFEST_FILE
from model_store.pacing import pause
from slimctr.errors import ConfigError, EngineError, ParityError
from slimctr.features.batch import EncodedBatch
from slimctr.features.encoder import Encoder
from slimctr.features.schema import FeatureSchema
from slimctr.features.vocabulary import Vocabulary
from slimctr.native.lookup import TableLookup
from slimctr.scoring.digest import REPAIR, check_digests
from slimctr.scoring.golden import Golden, check_golden_values, read_golden, read_golden_values
from slimctr.scoring.network import NetworkRuntime
from slimctr.scoring.tables import build_lookup, payload_bytes

Floats = npt.NDArray[np.float32]

GOLDEN_BATCH_ROWS = (1, 7)
# More rows at once would hold a core, which served versions may want, for ten milliseconds.
_WARM_UP_ROWS = (1, 32, 256)


class Scorer:
    """One version, ready to score. Its methods may be called from several threads at once.

    Everything is read-only after `open`: each lookup writes a matrix of its own, and kernel and ONNX Runtime
    sessions are safe to share. `close` lets running calls finish and makes later ones fail.
    """

    def __init__(
        self,
        manifest: Manifest,
        encoder: Encoder,
        lookup: TableLookup,
        network: NetworkRuntime,
        golden: Golden,
    ) -> None:
        self.manifest = manifest
        self._name = f"{manifest.model}/{manifest.version}"
        self.encoder = encoder
        self.golden = golden
        self.runtime = network.runtime
        self._engine: tuple[TableLookup, NetworkRuntime] | None = (lookup, network)

    @classmethod
    def open(
        cls, path: Path | str, threads: int = 1, unknown_fields: Literal["error", "ignore"] = "error"
    ) -> Self:
        """Verify, map and load the version directory `path`; `threads` are those of one network call.

        Raw golden values are encoded and must get the rows of publishing; the golden rows are not scored: see
        `check_golden`. Raises StoreError (model_store) for files that are not what manifest and seal say, EngineError
        for an artifact that this engine cannot serve and ParityError for values that get other rows.
        """
        with open_artifact(Path(path)) as artifact:
            return cls.of(artifact, threads, unknown_fields)

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        threads: int = 1,
        unknown_fields: Literal["error", "ignore"] = "error",
    ) -> Self:
        """Do what `open` does with an artifact that is verified already, and needed no longer afterwards."""
        try:
            return cls._from(artifact, threads, unknown_fields)
        except (EngineError, ConfigError) as problem:
            family = ParityError if isinstance(problem, ParityError) else EngineError
            raise family(f"{artifact.directory}: {problem}") from problem

    @classmethod
    def _from(
        cls,
        artifact: Artifact,
        threads: int,
        unknown_fields: Literal["error", "ignore"],
    ) -> Self:
        manifest = artifact.manifest
        schema = FeatureSchema.parse(manifest.features, "features")
        pause()
        vocabulary = _vocabulary(artifact, schema)
        pause()
        tables = artifact.tensors(TABLES_FILE)
        lookup = build_lookup(manifest, tables, schema)
        pause()
        _check_rows(manifest, schema, vocabulary)
        if payload_bytes(manifest, tables) != manifest.bytes.payload:
            raise EngineError(
                f"the tables hold {payload_bytes(manifest, tables)} bytes of codes, "
                f"the manifest claims a payload of {manifest.bytes.payload}"
            )
        pause()
        network = NetworkRuntime(
            artifact.read(NETWORK_FILE), manifest.network.width, manifest.network.opset, threads
        )
        golden = read_golden(artifact.tensors(GOLDEN_FILE), schema)
        encoder = Encoder(schema, vocabulary, unknown_fields)
        if GOLDEN_VALUES_FILE in manifest.files:
            _check_values(artifact, golden, encoder)
        check_digests(artifact, schema)
        return cls(manifest, encoder, lookup, network, golden)

    def logits(self, batch: EncodedBatch) -> Floats:
        """Return one logit per row, float32 (B,)."""
        lookup, network = self._open_engine()
        return network.run(lookup(batch.ids, [(bag.values, bag.offsets) for bag in batch.bags]))

    def lookup(self, batch: EncodedBatch) -> Floats:
        """Return the stored matrix, float32 (B, W): the dequantized rows of every table."""
        lookup, _ = self._open_engine()
        return lookup(batch.ids, [(bag.values, bag.offsets) for bag in batch.bags])

    def run_network(self, stored: Floats) -> Floats:
        """Return the logits, float32 (B,), of a stored matrix, float32 (B, W)."""
        _, network = self._open_engine()
        return network.run(stored)

    def check_golden(self) -> float:
        """Score the golden rows one by one, by seven and all at once; return the largest |Δlogit|.

        Raises ParityError when it exceeds `parity_atol` of the manifest or a logit is not finite.
        """
        rows = len(self.golden.batch)
        largest = 0.0
        for batch_rows in (*GOLDEN_BATCH_ROWS, rows):
            logits = np.concatenate(
                [
                    self._paused_logits(self.golden.batch.slice(start, min(start + batch_rows, rows)))
                    for start in range(0, rows, batch_rows)
                ]
            )
            differences = np.abs(logits.astype(np.float64) - self.golden.logits)
            worst = int(np.argmax(differences))  # a NaN counts as the largest
            if not differences[worst] <= self.manifest.parity_atol:
                raise ParityError(
                    f"{self._name}: golden row {worst} gives {logits[worst]} in batches of {batch_rows} "
                    f"where {self.golden.logits[worst]} is stored "
                    f"(allowed difference {self.manifest.parity_atol})"
                )
            largest = max(largest, float(differences[worst]))
        return largest

    def _paused_logits(self, batch: EncodedBatch) -> Floats:
        pause()
        return self.logits(batch)

    def warm_up(self) -> None:
        """Score golden rows in batches of 1, 32 and 256, so that the first request finds all ready."""
        for rows in _WARM_UP_ROWS:
            copies = -(-rows // len(self.golden.batch))
            self._paused_logits(EncodedBatch.concatenate([self.golden.batch] * copies).slice(0, rows))

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by kind: `payload` (table codes), `artifact` (listed files), `mapped` (read in place).

        Where the manifest knows the float original: `original_payload` and `original_artifact`. Resident
        bytes are measured in a process of their own (`slimctr.scoring.resident`).
        """
        manifest = self.manifest
        kinds = {
            "payload": manifest.bytes.payload,
            "artifact": manifest.artifact_bytes,
            "mapped": sum(manifest.files[name].bytes for name in (TABLES_FILE, VOCABULARY_FILE)),
            "original_payload": manifest.bytes.original_payload,
            "original_artifact": manifest.bytes.original_artifact,
        }
        return {kind: size for kind, size in kinds.items() if size is not None}

    @property
    def ratios(self) -> dict[str, float]:
        """How many times smaller than the float original, by kind; empty when it is not known."""
        sizes = self.bytes
        return {
            kind: sizes[f"original_{kind}"] / sizes[kind]
            for kind in ("payload", "artifact")
            if f"original_{kind}" in sizes and sizes[kind]
        }

    def close(self) -> None:
        """Let go of maps and session: they are freed when the last running call ends."""
        self._engine = None

    def _open_engine(self) -> tuple[TableLookup, NetworkRuntime]:
        engine = self._engine
        if engine is None:
            raise EngineError(f"{self._name} is closed")
        return engine


def _vocabulary(artifact: Artifact, schema: FeatureSchema) -> Vocabulary:
    try:
        return Vocabulary(schema, artifact.tensors(VOCABULARY_FILE))
    except ValueError as problem:
        raise EngineError(f"{VOCABULARY_FILE}: {problem}") from None


def _check_values(artifact: Artifact, golden: Golden, encoder: Encoder) -> None:
    values = read_golden_values(artifact.read(GOLDEN_VALUES_FILE), encoder.schema)
    base = artifact.manifest.base_vocabulary
    if values.base_vocabulary != base:
        raise IntegrityError(
            f"{artifact.directory / MANIFEST_FILE}: base_vocabulary is {base[:16]}…, {GOLDEN_VALUES_FILE} says "
            f"{values.base_vocabulary[:16]}…; {REPAIR}"
        )
    pause()
    check_golden_values(values, golden, encoder)


def _check_rows(manifest: Manifest, schema: FeatureSchema, vocabulary: Vocabulary) -> None:
    for table in manifest.tables:
        rows = vocabulary.rows(schema.index[table.field])
        if table.rows != rows:
            raise EngineError(
                f"table '{table.codes}' has {table.rows} rows, the vocabulary of '{table.field}' has {rows}"
            )
