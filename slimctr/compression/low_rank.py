"""What the low-rank methods share: settings, which parts may be factored, ranks by policy."""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import (
    LayerFactors,
    Pair,
    TableAxes,
    factor_table,
    layer_pays,
    rebuild,
    table_axes,
    table_pays,
)
from slimctr.compression.method import Count, ExtraEpochs, Outcome, Settings, not_float
from slimctr.compression.principal import energy_rank, greedy_ranks
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel, ModelSpec

RANK_SHARE = 0.16


class LowRankSettings(Settings):
    """Settings of `svd` and `feature_pca`; docs/compression.md describes every one."""

    epochs: ExtraEpochs = 2
    tables: bool = True
    table_rank: Count | None = None
    rank_policy: Literal["uniform", "energy", "greedy"] = "uniform"
    energy: Annotated[float, Field(gt=0, le=1)] = 0.95
    table_budget: Annotated[float, Field(gt=0, lt=1)] = 0.25
    mlp: bool = True
    mlp_rank_ratio: Annotated[float, Field(gt=0, lt=1)] = RANK_SHARE
    first_layer_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    pair: Pair = "pair_linear"


def low_rank_objection(spec: ModelSpec, config: LowRankSettings) -> str | None:
    """Say why the chosen parts of a model may not be factored any more."""
    if not (config.tables or config.mlp):
        return "both 'tables' and 'mlp' are false, so there is nothing to factor"
    if config.tables and spec.row_maps:
        return "rows were dropped from its tables; factor them before that, or set tables=false"
    advice = "; factor first and quantize after, as in 'feature_pca+ptq'"
    if config.tables and (reason := not_float(spec, advice)):
        return f"{reason}; set tables=false to factor the MLP alone"
    if config.tables and any(expand.kind == "affine" for expand in spec.expands):
        return "its tables are of low rank already; set tables=false to factor the MLP alone"
    if config.mlp and any(layer.kind != "linear" for layer in spec.layers):
        return "its MLP is factored already; set mlp=false to factor the tables alone"
    if config.table_rank is not None and config.table_rank >= spec.dim:
        return f"table_rank {config.table_rank} is not below the embedding width {spec.dim}"
    return None


def layer_ranks(spec: ModelSpec, config: LowRankSettings) -> dict[int, int]:
    """Ranks of the hidden layers that are worth factoring, by position; layer 1 only when asked for."""
    if not config.mlp:
        return {}
    ratios = [config.first_layer_ratio] + [config.mlp_rank_ratio] * (len(spec.layers) - 1)
    ranks = {
        index: max(1, round(ratio * spec.layers[index].outputs))
        for index, ratio in enumerate(ratios)
        if ratio is not None
    }
    return {index: rank for index, rank in ranks.items() if layer_pays(spec.layers[index], rank)}


def factor_model(
    model: CtrModel,
    data: CompressionData,
    config: LowRankSettings,
    layers: Mapping[int, LayerFactors],
    *,
    weighted: bool,
    centered: bool,
) -> Outcome:
    """Factor the tables as `config` says, put in the factored `layers`, and report ranks and eigenvalues.

    A field whose values are summed per request is factored about zero: a mean would be added once, not once
    per value. Tables too small to gain stay whole.
    """
    spec, chosen, tables = model.spec, {}, {}
    if config.tables:
        weights = [_embeddings(model, i) for i in range(len(spec.rows))]
        axes = {
            i: table_axes(
                weights[i], data.counts[i], weighted=weighted, centered=centered and spec.pooling[i] != "sum"
            )
            for i in range(len(spec.rows))
        }
        chosen = _table_ranks(spec, config, axes)
        tables = {i: factor_table(weights[i], axes[i], rank) for i, rank in chosen.items()}
    if not tables and not layers:
        raise CompressionError("no table and no layer gets smaller at these ranks; choose a lower rank")
    statistics = {
        "pair": config.pair if layers else None,
        "tables": {
            name: {"rank": chosen[i], "eigenvalues": _rounded(axes[i].axes.eigenvalues)}
            for i, name in enumerate(spec.field_names)
            if i in chosen
        },
        "whole_tables": [name for i, name in enumerate(spec.field_names) if i not in chosen],
        "layers": {str(index + 1): {"rank": len(layer.w1)} for index, layer in layers.items()},
    }
    return Outcome(rebuild(model, tables, layers, config.pair), statistics)


def _table_ranks(spec: ModelSpec, config: LowRankSettings, axes: Mapping[int, TableAxes]) -> dict[int, int]:
    """Rank of every table that gains from it, by field position."""
    fields = range(len(spec.rows))

    def pays(field: int, rank: int) -> bool:
        """True when a rank saves bytes, and of a table that lost columns already at least two more."""
        width = spec.tables[field].dim
        return table_pays(spec.rows[field], width, rank, spec.dim) and (width == spec.dim or width > rank + 1)

    if config.rank_policy == "uniform":
        rank = config.table_rank or max(1, round(RANK_SHARE * spec.dim))
        ranks = dict.fromkeys(fields, rank)
    elif config.rank_policy == "energy":
        ranks = {i: energy_rank(axes[i].axes.eigenvalues, config.energy) for i in fields}
    else:
        able = [i for i in fields if pays(i, 1)]
        whole = sum(4 * spec.tables[i].dim * spec.rows[i] for i in fields if i not in able)
        budget = int(config.table_budget * 4 * spec.dim * sum(spec.rows)) - whole
        spectra = [axes[i].axes.eigenvalues for i in able]
        try:
            ranks = dict(zip(able, greedy_ranks(spectra, [spec.rows[i] for i in able], budget), strict=True))
        except ValueError as problem:
            raise CompressionError(f"table_budget {config.table_budget} is too small: {problem}") from None
    return {i: rank for i, rank in ranks.items() if pays(i, rank)}


def _embeddings(model: CtrModel, field: int) -> NDArray[np.float32]:
    """Every row of a field as the network reads it: (N, D)."""
    matrix, offset = model.expands[field].block()
    return (model.tables[field].weight @ matrix + offset).detach().numpy()


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
