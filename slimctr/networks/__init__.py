"""CTR networks in torch: specification, tables, expands, layers and backbones."""

from slimctr.networks.expand import (
    Affine,
    Expands,
    FrozenExpands,
    Identity,
    Projection,
    Scatter,
    scatter_matrix,
)
from slimctr.networks.layers import Linear, Mlp, PairLinear, PairRelu
from slimctr.networks.model import NETWORKS, CtrModel, TensorBag, build_model, float_spec, network_params
from slimctr.networks.row_map import RowMap
from slimctr.networks.spec import ExpandSpec, LayerSpec, ModelSpec, RowMapSpec, TableSpec, ZeroRows
from slimctr.networks.tables import (
    FloatTable,
    HalfTable,
    MaskedTable,
    MixedTable,
    QuantizedTable,
    QuotientRemainderTable,
)

__all__ = [
    "NETWORKS",
    "Affine",
    "CtrModel",
    "ExpandSpec",
    "Expands",
    "FloatTable",
    "FrozenExpands",
    "HalfTable",
    "Identity",
    "LayerSpec",
    "Linear",
    "MaskedTable",
    "MixedTable",
    "Mlp",
    "ModelSpec",
    "PairLinear",
    "PairRelu",
    "Projection",
    "QuantizedTable",
    "QuotientRemainderTable",
    "RowMap",
    "RowMapSpec",
    "Scatter",
    "TableSpec",
    "TensorBag",
    "ZeroRows",
    "build_model",
    "float_spec",
    "network_params",
    "scatter_matrix",
]
