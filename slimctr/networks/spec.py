"""The specification of a model: everything but its weights, as frozen JSON."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Pooling = Literal["mean", "sum"]
ZeroRows = Literal["keyed", "zero", "oov"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TableSpec(_Record):
    """What a table stores per row: `dim` floats, `dim` float16 (half), `dim` codes of `bits` bits, scaled by
    row or column (quantized), codes whose width changes from one run of rows to the next (mixed), nothing of
    its own (quotient_remainder), or a mask and the values that it keeps (masked).

    `segments` of a mixed table are (bits, rows) in row order; rows of 0 bits store nothing and read zeros. Row r of
    a quotient_remainder table combines rows r // `divisor` and r % `divisor` of two float tables. A masked table
    keeps `kept` values of all its rows, stored as floats of `value_bits`.
    """

    kind: Literal["float", "half", "quantized", "mixed", "quotient_remainder", "masked"] = "float"
    dim: Positive
    bits: Annotated[int, Field(ge=1, le=8)] | None = None
    scale: Literal["row", "column"] | None = None
    segments: tuple[tuple[Annotated[int, Field(ge=0, le=8)], Positive], ...] = ()
    divisor: Positive | None = None
    combine: Literal["sum", "product"] | None = None
    kept: Annotated[int, Field(ge=0)] | None = None
    value_bits: Literal[16, 32] | None = None

    @model_validator(mode="after")
    def _masked_tables_say_how(self) -> Self:
        is_masked = self.kind == "masked"
        if is_masked != (self.kept is not None) or is_masked != (self.value_bits is not None):
            raise ValueError(
                "a masked table needs 'kept' and 'value_bits', no other has them "
                f"(kind={self.kind}, kept={self.kept}, value_bits={self.value_bits})"
            )
        return self

    @model_validator(mode="after")
    def _divided_tables_say_how(self) -> Self:
        is_divided = self.kind == "quotient_remainder"
        if is_divided != (self.divisor is not None) or is_divided != (self.combine is not None):
            raise ValueError(
                "a quotient_remainder table needs 'divisor' and 'combine', no other has them "
                f"(kind={self.kind}, divisor={self.divisor}, combine={self.combine})"
            )
        return self

    @model_validator(mode="after")
    def _mixed_tables_have_segments(self) -> Self:
        if (self.kind == "mixed") != bool(self.segments):
            raise ValueError(f"a mixed table needs 'segments', no other has them (kind={self.kind})")
        return self

    @model_validator(mode="after")
    def _quantized_tables_say_how(self) -> Self:
        if (self.kind == "quantized") != (self.bits is not None and self.scale is not None):
            raise ValueError(
                "a quantized table needs 'bits' and 'scale'; a float or half table has neither "
                f"(kind={self.kind}, bits={self.bits}, scale={self.scale})"
            )
        return self


class ExpandSpec(_Record):
    """How a stored row becomes an embedding of D values.

    `identity`: as it is. `affine`: through a basis of `rank` columns and a mean. `scatter`: its values are put
    back at `columns`, the rest is zero. `projection`: through a trained matrix of `rank` columns.
    """

    kind: Literal["identity", "affine", "scatter", "projection"] = "identity"
    rank: Positive | None = None
    columns: tuple[Annotated[int, Field(ge=0)], ...] | None = None

    @model_validator(mode="after")
    def _kind_has_its_settings(self) -> Self:
        ranked = self.kind in ("affine", "projection")
        if ranked != (self.rank is not None) or (self.kind == "scatter") != (self.columns is not None):
            raise ValueError(
                "an affine or projection expand needs 'rank', scatter needs 'columns', and neither takes more "
                f"(kind={self.kind}, rank={self.rank}, columns={self.columns})"
            )
        if self.columns is not None and (not self.columns or list(self.columns) != sorted(set(self.columns))):
            raise ValueError(f"columns of a scatter expand rise, and there is one at least: {self.columns}")
        return self

    def stored_dim(self, dim: int) -> int:
        """Values that the table of the field stores per row, when embeddings have `dim`."""
        return len(self.columns) if self.columns is not None else self.rank or dim


class RowMapSpec(_Record):
    """The tables of a field store `stored_rows` rows, fewer than its vocabulary lists.

    `zero_rows` says what a value without a row of its own reads: `keyed`: zeros, because the vocabulary still
    knows it; `oov`: the out-of-vocabulary row; `zero`: zeros, as every unlisted value does.
    """

    stored_rows: Positive
    zero_rows: ZeroRows

    @property
    def zero_row(self) -> int | None:
        """The stored row that reads zeros."""
        return {"keyed": self.stored_rows - 1, "zero": 0, "oov": None}[self.zero_rows]


class LayerSpec(_Record):
    """One hidden layer of the MLP: a linear map, or its two factors of inner width `rank`."""

    kind: Literal["linear", "pair_linear", "pair_relu"] = "linear"
    inputs: Positive
    outputs: Positive
    rank: Positive | None = None

    @model_validator(mode="after")
    def _pairs_have_a_rank(self) -> Self:
        if (self.kind != "linear") != (self.rank is not None):
            raise ValueError(
                f"a pair layer needs 'rank', linear has none (kind={self.kind}, rank={self.rank})"
            )
        return self


class ModelSpec(_Record):
    """A CTR model without its weights.

    `rows`, `pooling`, `tables` and `expands` have one entry per field in schema order. `pooling` is None for
    a single-valued field. `wide` is empty when the network has no first-order term. `layers` are the hidden
    layers of the MLP. `negative_sampling_rate` is the share of the negatives that training kept; the model
    adds its logarithm to every logit. `rows` counts the rows of the vocabulary; `row_maps` is empty or has an
    entry per field, None where the tables store every row. `network_bits` are those of the weight matrices once
    export has folded them (None: float32). `calibration` (scale, shift) is applied to every logit, last.
    """

    network: str
    dim: Positive
    field_names: tuple[str, ...]
    rows: tuple[Positive, ...]
    pooling: tuple[Pooling | None, ...]
    params: dict[str, Any] = {}
    tables: tuple[TableSpec, ...]
    wide: tuple[TableSpec, ...] = ()
    expands: tuple[ExpandSpec, ...]
    layers: tuple[LayerSpec, ...]
    row_maps: tuple[RowMapSpec | None, ...] = ()
    network_bits: Literal[4, 8] | None = None
    calibration: tuple[float, float] | None = None
    negative_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        fields = len(self.field_names)
        if fields == 0:
            raise ValueError("a model needs at least one field")
        lengths = {name: len(getattr(self, name)) for name in ("rows", "pooling", "tables", "expands")}
        if self.wide:
            lengths["wide"] = len(self.wide)
        if self.row_maps:
            lengths["row_maps"] = len(self.row_maps)
        if wrong := {name: length for name, length in lengths.items() if length != fields}:
            raise ValueError(f"one entry for each of the {fields} fields expected, got {wrong}")
        for name, table, expand in zip(self.field_names, self.tables, self.expands, strict=True):
            if table.dim != expand.stored_dim(self.dim):
                raise ValueError(
                    f"field '{name}': the table stores {table.dim} columns, "
                    f"its expand takes {expand.stored_dim(self.dim)}"
                )
            if expand.columns is not None and expand.columns[-1] >= self.dim:
                raise ValueError(
                    f"field '{name}': column {expand.columns[-1]} is outside the embedding width {self.dim}"
                )
        if any(table.dim != 1 for table in self.wide):
            raise ValueError("wide tables have one column")
        for name, rows, table in zip(self.field_names, self.stored_rows, self.tables, strict=True):
            if table.segments and sum(count for _, count in table.segments) != rows:
                raise ValueError(f"field '{name}': the segments do not hold the {rows} rows of the table")
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if before.outputs != after.inputs:
                raise ValueError(f"a layer of {before.outputs} outputs feeds one of {after.inputs} inputs")
        return self

    @property
    def stored_rows(self) -> tuple[int, ...]:
        """Rows of the tables of every field."""
        maps = self.row_maps or (None,) * len(self.rows)
        return tuple(
            rows if row_map is None else row_map.stored_rows
            for rows, row_map in zip(self.rows, maps, strict=True)
        )

    @property
    def code_width(self) -> int:
        """Columns of the stored matrix that belong to embeddings; the wide columns follow."""
        return sum(table.dim for table in self.tables)

    @property
    def stored_width(self) -> int:
        """W: columns of the stored matrix."""
        return self.code_width + len(self.wide)
