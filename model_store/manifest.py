"""The manifest: what `manifest.json` of one version says, and nothing else (docs/artifact-format.md)."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    codec: Literal[
        "float32",
        "float16",
        "int8_row",
        "packed",
        "quotient_remainder",
        "masked_float32",
        "masked_float16",
    ]
    rows: Annotated[int, Field(ge=1, lt=2**31)]
    dim: Annotated[int, Field(ge=1)]
    column: Count
    codes: str
    layout: Literal["planes", "stream"] | None = None
    scale: Literal["row", "column"] | None = None
    scales: str | None = None
    minimums: str | None = None
    segments: tuple[Segment, ...] = ()
    divisor: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    combine: Literal["sum", "product"] | None = None
    kept: Annotated[int, Field(ge=0, lt=2**32)] | None = None

    @model_validator(mode="after")
    def _masked_tables_say_how_much(self) -> Self:
        if (self.codec in ("masked_float32", "masked_float16")) != (self.kept is not None):
            raise ValueError("kept is given if, and only if, codec is 'masked_float32' or 'masked_float16'")
        return self

    @model_validator(mode="after")
    def _divided_tables_say_how(self) -> Self:
        is_divided = self.codec == "quotient_remainder"
        if is_divided != (self.divisor is not None) or is_divided != (self.combine is not None):
            raise ValueError("divisor and combine are given if, and only if, codec is 'quotient_remainder'")
        return self

    @model_validator(mode="after")
    def _codec_has_its_settings(self) -> Self:
        if self.codec != "packed":
            if self.layout or self.scale or self.scales or self.minimums or self.segments:
                raise ValueError(f"codec '{self.codec}' takes no layout, scale, scales, minimums or segments")
            return self
        if self.layout is None or self.scale is None:
            raise ValueError("codec 'packed' needs layout and scale")
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
