"""The manifest: what `manifest.json` of one version says, and nothing else (docs/artifact-format.md)."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_store.codecs import (
    CODEC_KEYS,
    CODECS,
    CodecName,
    Layout,
    check_keys,
    divided_rows,
    masked_bytes,
    packed_record_bytes,
    record_bytes,
)
from model_store.names import ModelName, VersionText

SCHEMA_VERSION: Literal[1] = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Record):
    """Digest and size of one file of the version directory."""

    sha256: Sha256
    bytes: Count


class Segment(_Record):
    """Rows of one bit width inside a packed table; `byte_base` counts from the start of its codes tensor."""

    bits: Annotated[int, Field(ge=0, le=8)]
    start_row: Count
    rows: Count
    byte_base: Count


class Table(_Record):
    """One stored table: `rows` records of `dim` values, for columns `column .. column+dim` of the matrix."""

    field: str
    role: Literal["embedding", "wide"]
    codec: CodecName
    rows: Annotated[int, Field(ge=1, lt=2**31)]
    dim: Annotated[int, Field(ge=1)]
    column: Count
    codes: str
    layout: Layout | None = None
    scale: Literal["row", "column"] | None = None
    scales: str | None = None
    minimums: str | None = None
    segments: tuple[Segment, ...] = ()
    divisor: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    combine: Literal["sum", "product"] | None = None
    kept: Annotated[int, Field(ge=0, lt=2**32)] | None = None

    @model_validator(mode="after")
    def _codec_has_its_keys(self) -> Self:
        given = {name for name in CODEC_KEYS if getattr(self, name) not in (None, ())}
        check_keys(self.codec, given)
        if self.codec != "packed":
            return self
        if (self.scale == "column") != (self.scales is not None and self.minimums is not None):
            raise ValueError("scales and minimums are given if, and only if, scale is 'column'")
        next_row = 0
        for segment in self.segments:
            if segment.start_row != next_row:
                raise ValueError(f"the segment of row {segment.start_row} should start at row {next_row}")
            next_row += segment.rows
        if next_row != self.rows:
            raise ValueError(f"the segments hold {next_row} of {self.rows} rows")
        return self

    @property
    def value_bits(self) -> set[int]:
        """Widths in bits of the values or codes."""
        bits = CODECS[self.codec].value_bits
        return {segment.bits for segment in self.segments} if bits is None else {bits}

    @property
    def codes_bytes(self) -> int:
        """Bytes of the codes, scales inside their records included."""
        layout, row_scale = self.layout, self.scale == "row"
        if layout is not None:
            return sum(
                segment.rows * packed_record_bytes(layout, segment.bits, self.dim, row_scale)
                for segment in self.segments
            )
        if self.kept is not None:
            return masked_bytes(self.rows, self.dim, self.kept, CODECS[self.codec].value_bits or 0)
        rows = self.rows if self.divisor is None else divided_rows(self.rows, self.divisor)
        return rows * record_bytes(self.codec, self.dim)


class Network(_Record):
    """The ONNX graph: input `stored` float32 (B, width), output `logit` float32 (B,)."""

    file: Literal["network.onnx"] = "network.onnx"
    width: Annotated[int, Field(ge=1)]
    opset: Annotated[int, Field(ge=13, le=25)]


class Bytes(_Record):
    """Payload (table codes) and artifact (every file) bytes, their splits, and both of the float original."""

    payload: Count
    payload_by_role: dict[str, Count]
    artifact_by_component: dict[str, Count]
    original_payload: Count | None = None
    original_artifact: Count | None = None


class Draft(_Record):
    """Everything of a manifest that the exporter decides; the store adds names, digests and the date."""

    method: tuple[dict[str, Any], ...]
    features: dict[str, Any]
    tables: tuple[Table, ...]
    network: Network
    bytes: Bytes
    base_vocabulary: Sha256
    encoder: Sha256
    parity_atol: Annotated[float, Field(gt=0, le=1)] = 1e-4
    negative_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    evaluation: dict[str, float] = {}
    fidelity: dict[str, float] = {}
    lineage: dict[str, Any] = {}


class Manifest(Draft):
    """`manifest.json`: the draft plus identity and the digest of every other file."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelName
    version: VersionText
    created: str
    files: dict[str, FileEntry]

    @property
    def artifact_bytes(self) -> int:
        """Bytes of every file of the version, the manifest itself excepted."""
        return sum(entry.bytes for entry in self.files.values())
