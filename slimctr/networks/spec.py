"""The specification of a model: everything but its weights, as frozen JSON."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Pooling = Literal["mean", "sum"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TableSpec(_Record):
    """What a table stores per row: `dim` floats, or `dim` codes of `bits` bits, scaled by row or column."""

    kind: Literal["float", "quantized"] = "float"
    dim: Positive
    bits: Annotated[int, Field(ge=1, le=8)] | None = None
    scale: Literal["row", "column"] | None = None

    @model_validator(mode="after")
    def _quantized_tables_say_how(self) -> Self:
        if (self.kind == "quantized") != (self.bits is not None and self.scale is not None):
            raise ValueError(
                "a quantized table needs 'bits' and 'scale'; a float table has neither "
                f"(kind={self.kind}, bits={self.bits}, scale={self.scale})"
            )
        return self


class ExpandSpec(_Record):
    """How a stored row becomes an embedding: as it is, or through a basis of `rank` columns and a mean."""

    kind: Literal["identity", "affine"] = "identity"
    rank: Positive | None = None

    @model_validator(mode="after")
    def _affine_has_a_rank(self) -> Self:
        if (self.kind == "affine") != (self.rank is not None):
            raise ValueError(
                f"an affine expand needs 'rank', identity has none (kind={self.kind}, rank={self.rank})"
            )
        return self


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
            stored = self.dim if expand.kind == "identity" else expand.rank
            if table.dim != stored:
                raise ValueError(
                    f"field '{name}': the table stores {table.dim} columns, its expand takes {stored}"
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
