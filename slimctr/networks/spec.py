"""The specification of a model: everything but its weights, as frozen JSON."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Pooling = Literal["mean", "sum"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TableSpec(_Record):
    """What a table stores per row: `dim` floats, `dim` float16 (half), or `dim` codes of `bits` bits, scaled by
    row or column."""

    kind: Literal["float", "half", "quantized"] = "float"
    dim: Positive
    bits: Annotated[int, Field(ge=1, le=8)] | None = None
    scale: Literal["row", "column"] | None = None

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
    adds its logarithm to every logit.
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
    negative_sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        fields = len(self.field_names)
        if fields == 0:
            raise ValueError("a model needs at least one field")
        lengths = {name: len(getattr(self, name)) for name in ("rows", "pooling", "tables", "expands")}
        if self.wide:
            lengths["wide"] = len(self.wide)
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
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if before.outputs != after.inputs:
                raise ValueError(f"a layer of {before.outputs} outputs feeds one of {after.inputs} inputs")
        return self

    @property
    def code_width(self) -> int:
        """Columns of the stored matrix that belong to embeddings; the wide columns follow."""
        return sum(table.dim for table in self.tables)

    @property
    def stored_width(self) -> int:
        """W: columns of the stored matrix."""
        return self.code_width + len(self.wide)
