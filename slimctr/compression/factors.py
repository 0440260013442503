"""Low-rank factors of tables and MLP layers, when they pay, and the model rebuilt from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from slimctr.compression.principal import Array, Axes, Moments, principal_axes, second_moment
from slimctr.networks import (
    Affine,
    CtrModel,
    ExpandSpec,
    FloatTable,
    LayerSpec,
    ModelSpec,
    TableSpec,
    build_model,
)

Pair = Literal["pair_linear", "pair_relu"]


@dataclass(frozen=True)
class TableAxes:
    """The center (D,) and the principal axes of one table."""

    mean: Array
    axes: Axes


@dataclass(frozen=True)
class TableFactors:
    """A table as codes (N, r), basis (D, r) and mean (D,): row i is basis @ codes[i] + mean."""

    codes: Array
    basis: Array
    mean: Array


@dataclass(frozen=True)
class LayerFactors:
    """A linear layer as two: y = w2 (w1 x + b1) + b2, shapes (r, in), (r,), (out, r), (out,)."""

    w1: Array
    b1: Array
    w2: Array
    b2: Array


def table_axes(
    table: NDArray[np.floating], counts: NDArray[np.integer], *, weighted: bool, centered: bool
) -> TableAxes:
    """Axes of the rows of `table` (N, D): about their mean or zero, rows counted by use or once each."""
    weights = counts if weighted else None
    if centered:
        moments = Moments.of(table, weights)
        return TableAxes(moments.mean, principal_axes(moments.covariance))
    return TableAxes(np.zeros(table.shape[1]), principal_axes(second_moment(table, weights)))


def factor_table(table: NDArray[np.floating], axes: TableAxes, rank: int) -> TableFactors:
    """Project the rows of `table` (N, D) on the first `rank` axes."""
    basis = axes.axes.basis(rank)
    return TableFactors((np.asarray(table, dtype=np.float64) - axes.mean) @ basis, basis, axes.mean)


def output_pca_layer(
    weight: NDArray[np.floating], bias: NDArray[np.floating], outputs: Moments, rank: int
) -> LayerFactors:
    """Factor y = W x + w0 so that y is projected on the `rank` main axes of its own distribution.

    y' = mu + U U^T (y - mu): w1 = U^T W, b1 = U^T w0, w2 = U, b2 = (I - U U^T) mu, with mu the mean of y
    (w0 is already in it). The mean of y is kept at every rank. Source: output PCA of arXiv 2405.18146.
    """
    basis = principal_axes(outputs.covariance).basis(rank)
    b2 = outputs.mean - basis @ (basis.T @ outputs.mean)
    return LayerFactors(basis.T @ weight, basis.T @ bias, basis, b2)


def svd_layer(weight: NDArray[np.floating], bias: NDArray[np.floating], rank: int) -> LayerFactors:
    """Factor W (out, in) by its largest singular values, split evenly between the two factors."""
    left, singular, right = np.linalg.svd(np.asarray(weight, dtype=np.float64), full_matrices=False)
    root = np.sqrt(singular[:rank])
    return LayerFactors(
        root[:, None] * right[:rank], np.zeros(rank), left[:, :rank] * root, np.asarray(bias, np.float64)
    )


def shifted_above_zero(factors: LayerFactors, outputs: Moments) -> LayerFactors:
    """Shift the inner values up by 3 standard deviations and back: a ReLU between hardly cuts them."""
    means = factors.w2.T @ outputs.mean
    deviations = np.sqrt(np.maximum(np.diag(factors.w2.T @ outputs.covariance @ factors.w2), 0.0))
    shift = 3 * deviations - means
    return LayerFactors(factors.w1, factors.b1 + shift, factors.w2, factors.b2 - factors.w2 @ shift)


def table_pays(rows: int, width: int, rank: int, dim: int) -> bool:
    """True when codes, basis and mean of embeddings of `dim` take fewer floats than a table of `width` columns."""
    return rows * rank + dim * rank + dim < rows * width


def layer_pays(layer: LayerSpec, rank: int) -> bool:
    """True when the two factors hold fewer weights than the layer."""
    return rank * (layer.inputs + layer.outputs) < layer.inputs * layer.outputs


def rebuild(
    model: CtrModel,
    tables: Mapping[int, TableFactors],
    layers: Mapping[int, LayerFactors],
    pair: Pair,
) -> CtrModel:
    """Return a new model in which the named tables and MLP layers are factored; the rest is copied."""
    spec = model.spec
    state = dict(model.state_dict())
    table_specs, expands, layer_specs = list(spec.tables), list(spec.expands), list(spec.layers)
    for field, table in tables.items():
        rank = table.basis.shape[1]
        table_specs[field] = TableSpec(dim=rank)
        expands[field] = ExpandSpec(kind="affine", rank=rank)
        state.pop(f"expands.{field}.weight", None)  # of a projection, whose place the basis takes
        state[f"tables.{field}.weight"] = _float32(table.codes)
        state[f"expands.{field}.basis"] = _float32(table.basis)
        state[f"expands.{field}.mean"] = _float32(table.mean)
    for index, layer in layers.items():
        whole, prefix = spec.layers[index], f"backbone.mlp.blocks.{index}.linear"
        layer_specs[index] = LayerSpec(
            kind=pair, inputs=whole.inputs, outputs=whole.outputs, rank=len(layer.w1)
        )
        del state[f"{prefix}.weight"], state[f"{prefix}.bias"]
        state[f"{prefix}.first.weight"], state[f"{prefix}.first.bias"] = (
            _float32(layer.w1),
            _float32(layer.b1),
        )
        state[f"{prefix}.second.weight"], state[f"{prefix}.second.bias"] = (
            _float32(layer.w2),
            _float32(layer.b2),
        )
    return model_of(with_parts(spec, tables=table_specs, expands=expands, layers=layer_specs), state)


def make_bases_orthonormal(model: CtrModel) -> None:
    """Turn the axes of every affine expand over a float table, in place, until they are orthonormal again.

    Training moves them; the table takes up the turn, so that embeddings stay what they are up to float32 rounding. The
    factorization machine on stored codes (slimctr/networks/codes_fm.py) then needs no Gram matrix.
    """
    for table, expand in zip(model.tables, model.expands, strict=True):
        if isinstance(expand, Affine) and isinstance(table, FloatTable):
            axes, turn = np.linalg.qr(expand.basis.detach().double().numpy())
            signs = np.where(np.diag(turn) < 0, -1.0, 1.0)
            codes = table.weight.detach().double().numpy() @ (signs[:, None] * turn).T
            expand.basis.data.copy_(_float32(axes * signs))
            table.weight.data.copy_(_float32(codes))


def with_parts(spec: ModelSpec, **parts: object) -> ModelSpec:
    """Return `spec` with some parts replaced, checked again."""
    return ModelSpec.model_validate({**dict(spec), **parts})


def model_of(spec: ModelSpec, state: Mapping[str, torch.Tensor]) -> CtrModel:
    """Return the model of `spec` holding exactly `state`, in evaluation mode."""
    model = build_model(spec)
    model.load_state_dict(state, strict=True)
    return model.eval()


def _float32(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
