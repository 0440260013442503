"""DeepFM models of any size with random weights, compressed and not, and ids to score them on: nothing is trained."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from slimctr.clicklogs.synthetic import scale_cardinalities
from slimctr.clicklogs.zipf import draw_zipf
from slimctr.compression.factors import model_of, table_pays, with_parts
from slimctr.compression.quantization import ColumnCodes, quantize_columns, quantize_rows
from slimctr.networks import CtrModel, ExpandSpec, LayerSpec, TableSpec, build_model, float_spec

FIELDS, DIM, RANK, LAYER_RANK = 39, 16, 8, 64
SMALLEST_FIELD = 4
VARIANTS = (
    *("original", "pca_float", "pca_8bit", "pca_mixed", "pca_8bit_narrow", "pca_mixed_narrow"),
    *("ptq_8bit", "ptq_4bit"),
)
NARROW_RANKS = (24, 20, 20)
"""Ranks of the three layers of 400 that keep the AUC of Frappe_x1: "feature_pca, imitating, smaller" of the compression
report."""
MIXED_SHARES = ((6, 0.02), (5, 0.03), (4, 0.05), (3, 0.10), (2, 0.20), (1, 0.30), (0, 0.30))
"""Bits of the rows of a field from the most frequent on, with the share of rows of each width: 1.47 bits on average."""
POPULARITY = 1.1
STEP_ROWS = 65_536

State = dict[str, torch.Tensor]


def field_rows(ids: int) -> tuple[int, ...]:
    """Rows of the 39 tables, `ids` in all, evenly spaced on a logarithmic scale as the fields of real logs are."""
    spaced = tuple(int(size) for size in np.geomspace(SMALLEST_FIELD, ids, FIELDS))
    return scale_cardinalities(spaced, ids)


def zipf_ids(rows: Sequence[int], count: int, seed: int) -> NDArray[np.int32]:
    """Draw ids (count, F) that favor the first rows of each field, as clicks do."""
    generator = np.random.default_rng([seed, 1])
    columns = [draw_zipf(generator, count, size, POPULARITY) for size in rows]
    return np.stack(columns, axis=1).astype(np.int32)


def uniform_ids(rows: Sequence[int], count: int, seed: int) -> NDArray[np.int32]:
    """Draw ids (count, F), all rows of a field equally likely: the worst case for every cache."""
    generator = np.random.default_rng([seed, 2])
    return generator.integers(0, rows, (count, len(rows)), dtype=np.int32)


def low_rank_model(rows: Sequence[int], seed: int) -> CtrModel:
    """Draw a DeepFM whose tables and MLP layers are of low rank; tables that would not get smaller stay whole."""
    names = [f"C{position + 1}" for position in range(len(rows))]
    spec = float_spec("deepfm", dim=DIM, field_names=names, rows=rows, pooling=[None] * len(rows))
    is_low = [table_pays(size, DIM, RANK, DIM) for size in rows]
    torch.manual_seed(seed)
    model = build_model(
        with_parts(
            spec,
            tables=[TableSpec(dim=RANK if low else DIM) for low in is_low],
            expands=[ExpandSpec(kind="affine", rank=RANK) if low else ExpandSpec() for low in is_low],
            layers=[
                LayerSpec(kind="pair_linear", inputs=layer.inputs, outputs=layer.outputs, rank=LAYER_RANK)
                for layer in spec.layers
            ],
        )
    )
    for table in (*model.tables, *model.wide):
        torch.nn.init.normal_(table.weight, std=0.1)
    for expand, low in zip(model.expands, is_low, strict=True):
        if low:
            expand.basis.data.copy_(torch.linalg.qr(torch.randn(DIM, RANK)).Q)
            torch.nn.init.normal_(expand.mean, std=0.02)
    return model.eval()


def whole_model(low: CtrModel) -> CtrModel:
    """Return the same function with its tables and layers multiplied out."""
    state = {name: tensor for name, tensor in low.state_dict().items() if not name.startswith("expands.")}
    with torch.inference_mode():
        for field, expand in enumerate(low.expands):
            matrix, offset = expand.block()
            state[f"tables.{field}.weight"] = low.tables[field].weight @ matrix + offset
        for position, block in enumerate(low.backbone.mlp.blocks):
            first, second = block.linear.first, block.linear.second
            prefix = f"backbone.mlp.blocks.{position}.linear"
            for part in ("first.weight", "first.bias", "second.weight", "second.bias"):
                del state[f"{prefix}.{part}"]
            state[f"{prefix}.weight"] = second.weight @ first.weight
            state[f"{prefix}.bias"] = second(first.bias)
    spec = low.spec
    return model_of(
        with_parts(
            spec,
            tables=[TableSpec(dim=DIM)] * len(spec.rows),
            expands=[ExpandSpec()] * len(spec.rows),
            layers=[LayerSpec(inputs=layer.inputs, outputs=layer.outputs) for layer in spec.layers],
        ),
        state,
    )


def with_narrower_layers(low: CtrModel) -> CtrModel:
    """Return the model with `NARROW_RANKS` inner units in its MLP layers: it scores differently, in fewer operations."""
    state = dict(low.state_dict())
    for position, rank in enumerate(NARROW_RANKS):
        prefix = f"backbone.mlp.blocks.{position}.linear"
        for part in ("first.weight", "first.bias"):
            state[f"{prefix}.{part}"] = state[f"{prefix}.{part}"][:rank]
        state[f"{prefix}.second.weight"] = state[f"{prefix}.second.weight"][:, :rank]
    layers = [
        layer.model_copy(update={"rank": rank})
        for layer, rank in zip(low.spec.layers, NARROW_RANKS, strict=True)
    ]
    return model_of(with_parts(low.spec, layers=layers), state)


def by_row(model: CtrModel, bits: int) -> CtrModel:
    """Return the model with codes of `bits` bits and a step per row."""
    state = dict(model.state_dict())
    for field, table in enumerate(model.tables):
        coded = quantize_rows(table.weight.detach().numpy(), bits, shrink=False)
        _put(state, f"tables.{field}", coded.codes, coded.scales, coded.minimums)
    tables = [
        TableSpec(kind="quantized", dim=table.dim, bits=bits, scale="row") for table in model.spec.tables
    ]
    return model_of(with_parts(model.spec, tables=tables, wide=_wide_codes(model, state)), state)


def by_column(model: CtrModel, bits: int) -> CtrModel:
    """Return the model with codes of `bits` bits and a step per column."""
    state = dict(model.state_dict())
    for field, table in enumerate(model.tables):
        coded = column_codes(table.weight.detach().numpy(), bits)
        _put(state, f"tables.{field}", coded.codes, coded.scales, coded.minimums)
    tables = [TableSpec(kind="quantized", dim=t.dim, bits=bits, scale="column") for t in model.spec.tables]
    return model_of(with_parts(model.spec, tables=tables, wide=_wide_codes(model, state)), state)


def mixed(model: CtrModel) -> CtrModel:
    """Return the model with fewer bits the rarer a row is, and a step per column and width."""
    state, specs = dict(model.state_dict()), []
    for field, table in enumerate(model.tables):
        weight = table.weight.detach().numpy()
        codes = np.zeros(weight.shape, np.uint8)
        segments = mixed_segments(len(weight))
        scales, minimums = np.zeros((2, len(segments), weight.shape[1]), np.float32)
        start = 0
        for place, (bits, count) in enumerate(segments):
            if bits:
                coded = column_codes(weight[start : start + count], bits)
                codes[start : start + count] = coded.codes
                scales[place], minimums[place] = coded.scales, coded.minimums
            start += count
        _put(state, f"tables.{field}", codes, scales, minimums)
        specs.append(TableSpec(kind="mixed", dim=weight.shape[1], segments=segments))
    return model_of(with_parts(model.spec, tables=specs, wide=_wide_codes(model, state)), state)


def mixed_segments(rows: int) -> tuple[tuple[int, int], ...]:
    """Return (bits, rows) from the most frequent row on; small fields have rows of many bits only."""
    ends = np.ceil(np.cumsum([0.0, *(share for _, share in MIXED_SHARES)]) * rows - 1e-6).astype(int)
    counts = [stop - start for start, stop in pairwise(ends)]
    return tuple((bits, count) for (bits, _), count in zip(MIXED_SHARES, counts, strict=True) if count)


def column_codes(weight: NDArray[np.float32], bits: int) -> ColumnCodes:
    """Quantize the columns of `weight` (N, d) with the steps that suit its first 65,536 rows."""
    steps = quantize_columns(weight[:STEP_ROWS], bits)
    codes = np.empty(weight.shape, np.uint8)
    for start in range(0, len(weight), STEP_ROWS):
        part = slice(start, start + STEP_ROWS)
        safe = np.where(steps.scales > 0, steps.scales, 1)
        codes[part] = np.clip(np.rint((weight[part] - steps.minimums) / safe), 0, 2**bits - 1)
    return ColumnCodes(codes, steps.scales, steps.minimums)


def _wide_codes(model: CtrModel, state: State) -> list[TableSpec]:
    for field, table in enumerate(model.wide):
        coded = column_codes(table.weight.detach().numpy(), 8)
        _put(state, f"wide.{field}", coded.codes, coded.scales, coded.minimums)
    return [TableSpec(kind="quantized", dim=1, bits=8, scale="column")] * len(model.wide)


def _put(state: State, prefix: str, codes: NDArray, scales: NDArray, minimums: NDArray) -> None:
    del state[f"{prefix}.weight"]
    for name, array in (("codes", codes), ("scales", scales), ("minimums", minimums)):
        state[f"{prefix}.{name}"] = torch.from_numpy(array)


def variant_of(name: str, low: CtrModel) -> CtrModel:
    """Return the model of a variant."""
    match name:
        case "original":
            return whole_model(low)
        case "pca_float":
            return low
        case "pca_8bit":
            return by_column(low, 8)
        case "pca_mixed":
            return mixed(low)
        case "pca_8bit_narrow":
            return by_column(with_narrower_layers(low), 8)
        case "pca_mixed_narrow":
            return mixed(with_narrower_layers(low))
        case "ptq_8bit":
            return by_row(whole_model(low), 8)
        case "ptq_4bit":
            return by_row(whole_model(low), 4)
    raise ValueError(f"unknown variant '{name}'; known: {', '.join(VARIANTS)}")
