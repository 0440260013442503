"""The CTR model: tables, expands and backbone put together from a specification."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from slimctr.errors import ConfigError
from slimctr.networks.autoint import AutoInt
from slimctr.networks.backbone import Backbone
from slimctr.networks.dcn import Dcn
from slimctr.networks.dcnv2 import DcnV2
from slimctr.networks.deepfm import DeepFm
from slimctr.networks.dnn import Dnn
from slimctr.networks.expand import Expands, build_expand
from slimctr.networks.fibinet import FiBiNet
from slimctr.networks.folding import folded
from slimctr.networks.gdcn import Gdcn
from slimctr.networks.ipnn import Ipnn
from slimctr.networks.nfm import Nfm
from slimctr.networks.params import MlpParams, nearest
from slimctr.networks.row_map import RowMap
from slimctr.networks.spec import ExpandSpec, LayerSpec, ModelSpec, Pooling, TableSpec
from slimctr.networks.tables import build_table, pool
from slimctr.networks.xdeepfm import XDeepFm

NETWORKS: dict[str, type[Backbone]] = {
    "dnn": Dnn,
    "deepfm": DeepFm,
    "dcn": Dcn,
    "dcnv2": DcnV2,
    "ipnn": Ipnn,
    "autoint": AutoInt,
    "nfm": Nfm,
    "fibinet": FiBiNet,
    "gdcn": Gdcn,
    "xdeepfm": XDeepFm,
}

TensorBag = tuple[Tensor, Tensor]


class CtrModel(nn.Module):
    """A click model in two halves: `lookup` (what the engine's kernels do) and `network` (what becomes ONNX).

    `mlp_on_codes` says that layer 1 of the MLP was folded with the expands and takes the stored codes,
    `all_on_codes` that the interactions were too, and `matrix_codes` holds codes and scales of rounded weight
    matrices: all belong to the twin that `slimctr.networks.folding.folded` makes.
    """

    def __init__(self, spec: ModelSpec, backbone: Backbone) -> None:
        super().__init__()
        self.spec = spec
        stored = spec.stored_rows
        self.tables = nn.ModuleList(build_table(t, n) for t, n in zip(spec.tables, stored, strict=True))
        self.wide = (
            nn.ModuleList(build_table(t, n) for t, n in zip(spec.wide, stored, strict=True))
            if spec.wide
            else None
        )
        self.row_maps = nn.ModuleList(
            nn.Identity() if row_map is None else RowMap(row_map, rows)
            for row_map, rows in zip(spec.row_maps, spec.rows, strict=False)
        )
        self.expands: nn.Module = Expands(build_expand(expand, spec.dim) for expand in spec.expands)
        self.backbone = backbone
        self.mlp_on_codes = False
        self.all_on_codes = False
        self.matrix_codes: dict[str, tuple[Tensor, Tensor]] = {}
        self._low_precision: list[CtrModel] = []  # no submodule: its weights follow from those of this model
        self.logit_correction = math.log(spec.negative_sampling_rate)

    def lookup(self, ids: Tensor, bags: Sequence[TensorBag] = ()) -> Tensor:
        """Return the stored matrix (B, W): embedding columns in schema order, then wide columns.

        `ids` int (B, S) has one column per single-valued field, `bags` one (values (n,), offsets (B+1,)) per
        multi-valued field, both in schema order.
        """
        columns, bagged = iter(ids.T), iter(bags)
        inputs = [next(columns) if pooling is None else next(bagged) for pooling in self.spec.pooling]
        maps = self.row_maps or [None] * len(inputs)
        stored = [
            _read(table, source, pooling, row_map)
            for tables in (self.tables, self.wide)
            if tables is not None
            for table, source, pooling, row_map in zip(tables, inputs, self.spec.pooling, maps, strict=True)
        ]
        return torch.cat(stored, dim=1)

    def network(self, stored: Tensor) -> Tensor:
        """Return logits (B,) of a stored matrix (B, W), corrected for negative down-sampling and calibrated.

        A model of `network_bits` is not trained: it computes with the rounded weights that export stores.
        """
        if self.spec.network_bits is not None:
            if not self._low_precision:
                self._low_precision.append(folded(self))
            return self._low_precision[0].network(stored)
        codes = stored[:, : self.spec.code_width]
        wide = stored[:, self.spec.code_width :] if self.spec.wide else None
        if self.all_on_codes:
            logit = self.backbone(codes, codes, wide)
        else:
            embedded = self.expands(codes)
            x = embedded.reshape(-1, len(self.spec.rows), self.spec.dim)
            logit = self.backbone(x, codes if self.mlp_on_codes else embedded, wide)
        if self.logit_correction:
            logit = logit + self.logit_correction
        if self.spec.calibration is not None:
            scale, shift = self.spec.calibration
            logit = logit * scale + shift
        return logit

    def forward(self, ids: Tensor, bags: Sequence[TensorBag] = ()) -> Tensor:
        """Return logits (B,)."""
        return self.network(self.lookup(ids, bags))


def _read(
    table: nn.Module, source: Tensor | TensorBag, pooling: Pooling | None, row_map: nn.Module | None
) -> Tensor:
    read = partial(row_map.read, table) if isinstance(row_map, RowMap) else table
    if pooling is None:
        return read(source)
    values, offsets = source
    return pool(read(values), offsets, pooling)


def network_params(network: str, params: dict[str, Any]) -> MlpParams:
    """Check the settings of a network and fill in its defaults; raises ConfigError with the nearest name."""
    if network not in NETWORKS:
        raise ConfigError(
            f"unknown network {network!r}{nearest(network, NETWORKS)}; known: {', '.join(NETWORKS)}"
        )
    params_type = NETWORKS[network].Params
    for name in params:
        if name not in params_type.model_fields:
            known = params_type.model_fields
            raise ConfigError(
                f"params of network '{network}' have no setting {name!r}{nearest(name, known)}; "
                f"they have {', '.join(known)}"
            )
    try:
        return params_type(**params)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"setting '{where}' of network '{network}': {first['msg']}, got {first['input']!r}"
        ) from None


def float_spec(
    network: str,
    *,
    dim: int,
    field_names: Sequence[str],
    rows: Sequence[int],
    pooling: Sequence[Pooling | None],
    params: dict[str, Any] | None = None,
    negative_sampling_rate: float = 1.0,
) -> ModelSpec:
    """Return the specification of an uncompressed model: float tables, identity expands, whole layers.

    Raises ConfigError for an unknown network or setting, or too few fields for the network.
    """
    checked = network_params(network, params or {})
    backbone = NETWORKS[network]
    _require_fields(network, len(rows))
    widths = [backbone.mlp_inputs(len(rows), dim), *checked.hidden]
    return ModelSpec(
        network=network,
        dim=dim,
        field_names=tuple(field_names),
        rows=tuple(rows),
        pooling=tuple(pooling),
        params=checked.model_dump(mode="json"),
        tables=tuple(TableSpec(dim=dim) for _ in rows),
        wide=tuple(TableSpec(dim=1) for _ in rows) if backbone.has_wide else (),
        expands=tuple(ExpandSpec() for _ in rows),
        layers=tuple(LayerSpec(inputs=before, outputs=after) for before, after in pairwise(widths)),
        negative_sampling_rate=negative_sampling_rate,
    )


def build_model(spec: ModelSpec) -> CtrModel:
    """Return the model of a specification with initial weights drawn from torch's global generator.

    Raises ConfigError when the specification and its network do not fit together.
    """
    params = network_params(spec.network, spec.params)
    outputs = tuple(layer.outputs for layer in spec.layers)
    if outputs != params.hidden:
        raise ConfigError(
            f"layers of the specification end in widths {outputs}, its params say hidden={params.hidden}"
        )
    network, fields = NETWORKS[spec.network], len(spec.rows)
    _require_fields(spec.network, fields)
    if spec.layers[0].inputs != (inputs := network.mlp_inputs(fields, spec.dim)):
        raise ConfigError(
            f"layer 1 takes {spec.layers[0].inputs} inputs, "
            f"but {fields} fields of {spec.dim} give {inputs} in network '{spec.network}'"
        )
    if network.has_wide != bool(spec.wide):
        raise ConfigError(f"network '{spec.network}' {'needs' if network.has_wide else 'has no'} wide tables")
    return CtrModel(spec, network(fields, spec.dim, spec.layers, params))


def _require_fields(network: str, fields: int) -> None:
    if fields < (fewest := NETWORKS[network].fewest_fields):
        raise ConfigError(
            f"network '{network}' combines fields in pairs and needs at least {fewest}, got {fields}; "
            "use 'dnn' for a single field"
        )
