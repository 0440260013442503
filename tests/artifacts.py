"""Builds a small, real artifact without the exporter: five fields, every codec, a tiny network."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from reference_tables import pack_row, pool

from model_store.artifact import GOLDEN_FILE, NETWORK_FILE, TABLES_FILE, VOCABULARY_FILE
from model_store.manifest import Bytes, Draft, Network, Segment, Table
from model_store.store import ModelStore
from model_store.tensors import write_tensors
from slimctr.features import Bag, EncodedBatch, Encoder, FeatureSchema, Vocabulary
from slimctr.scoring.digest import encoder_digest
from slimctr.scoring.golden import Golden, GoldenValues, golden_tensors, save_golden

OPSET = 20
DIM = 6
HIDDEN = 8
GOLDEN_ROWS = 256

SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "user", "kind": "categorical"},
            {"name": "ad", "kind": "categorical", "required": True},
            {"name": "price", "kind": "numeric", "bucketing": {"kind": "log_squared"}},
            {"name": "site", "kind": "categorical", "hash_rows": 16},
            {"name": "tags", "kind": "categorical", "multivalued": True, "pooling": "mean"},
        ]
    }
)
VALUES = {
    "user": [f"u{i}" for i in range(60)],
    "ad": [f"a{i}" for i in range(30)],
    "price": ["1", "2", "", "0", "4", "5", "7"],
    "tags": ["red", "blue", "", "new", "sale"],
}
CODECS = {"user": "packed row stream", "ad": "int8_row", "price": "float16", "site": "packed column planes"}
SEGMENT_BITS = {"row": (8, 5, 4, 2, 0), "column": (8, 6)}


def raw_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows that the model accepts: listed and unlisted values, missing ones, bags of 0 to 3 tags."""
    rng = np.random.default_rng([seed, 1])
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        row: dict[str, Any] = {
            "user": f"u{rng.integers(0, 70)}",
            "ad": f"a{rng.integers(0, 32)}",
            "price": float(np.round(rng.exponential(5), 2)),
            "site": f"site-{rng.integers(0, 100)}",
            "tags": [str(tag) for tag in rng.choice(["red", "blue", "new", "unheard"], rng.integers(0, 4))],
        }
        for name in ("user", "price", "tags"):
            if rng.random() < 0.1:
                row[name] = None
        rows.append(row)
    return rows


def build_artifact(
    root: Path,
    model: str = "ctr",
    label: str | None = None,
    compressed: bool = True,
    seed: int = 0,
    dataset: Path | None = None,
    keeps_values: bool = False,
    **changes: Any,
) -> Path:
    """Publish a version of `model` in the store at `root` and return its directory.

    The float and the compressed version of one seed are one model, the second quantized. `changes` replace
    keys of the manifest draft. `dataset` is an encoded data set whose schema and vocabulary take the place of
    the small ones here; with `keeps_values` the raw values of its test rows are golden, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        draft = write_artifact(directory, compressed, seed, dataset, keeps_values)
        store = ModelStore(root)
        version = store.publish(model, directory, draft.model_copy(update=changes))
    if label is not None:
        store.set_label(model, label, version)
    return store.path(model, version)


def write_artifact(
    directory: Path,
    compressed: bool = True,
    seed: int = 0,
    dataset: Path | None = None,
    keeps_values: bool = False,
) -> Draft:
    """Write the files of a version into `directory` and return its manifest draft."""
    rng = np.random.default_rng(seed)
    if dataset is None:
        schema = SCHEMA
        Vocabulary.build(schema, VALUES).save(directory / VOCABULARY_FILE)
    else:
        schema = FeatureSchema.load(dataset / "schema.json")
        shutil.copyfile(dataset / VOCABULARY_FILE, directory / VOCABULARY_FILE)
    vocabulary = Vocabulary.open(directory / VOCABULARY_FILE, schema)
    base_vocabulary, encoder_sha256 = encoder_digest(schema, directory / VOCABULARY_FILE)

    tensors: dict[str, np.ndarray] = {}
    tables: list[Table] = []
    stored: list[tuple[int, Table, np.ndarray]] = []
    column = 0
    for role, dim in (("embedding", DIM), ("wide", 1)):
        for position, field in enumerate(schema.fields):
            values = rng.normal(0, 0.5, (vocabulary.rows(position), dim)).astype(np.float32)
            codec = (
                CODECS.get(field.name, "packed row planes")
                if compressed and role == "embedding"
                else "float32"
            )
            name = f"{role}.{field.name}"
            settings, arrays, values = _stored(name, codec, values)
            table = Table(field=field.name, role=role, rows=len(values), dim=dim, column=column, **settings)
            tensors |= arrays
            tables.append(table)
            stored.append((position, table, values))
            column += dim
    write_tensors(directory / TABLES_FILE, tensors)

    network = _Network(rng, column, wide_columns=len(schema.fields))
    (directory / NETWORK_FILE).write_bytes(network.onnx_bytes())
    rows = [*raw_rows(99), {"ad": "never seen"}] if schema is SCHEMA else []
    if dataset is not None and keeps_values:
        # Here, because it imports torch, which tests of the service do without.
        from slimctr.clicklogs import Dataset
        from slimctr.export.golden_values import golden_values

        kept = golden_values(Dataset(dataset).raw_test(1_000)[0], Encoder(schema, vocabulary))
        rows = GoldenValues(base_vocabulary, kept).rows
    batch = golden_batch(Encoder(schema, vocabulary), rows, rng)
    golden = Golden(batch, network.logits(stored_matrix(schema, stored, batch, column)))
    if rows:
        values = {name: [row.get(name) for row in rows] for name in schema.names}
        save_golden(directory, golden, GoldenValues(base_vocabulary, values), schema)
    else:  # as versions were before raw values were kept
        write_tensors(directory / GOLDEN_FILE, golden_tensors(golden, schema))

    payload_by_role = {
        role: sum(tensors[table.codes].nbytes for table in tables if table.role == role)
        for role in ("embedding", "wide")
    }
    original = 4 * sum(table.rows * table.dim for table in tables)
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    return Draft(
        method=({"method": "ptq", "settings": {}},) if compressed else (),
        features=schema.model_dump(mode="json", exclude_defaults=True),
        tables=tuple(tables),
        network=Network(width=column, opset=OPSET),
        bytes=Bytes(
            payload=sum(payload_by_role.values()),
            payload_by_role=payload_by_role,
            artifact_by_component=sizes,
            original_payload=original,
            original_artifact=sum(sizes.values()) - sum(payload_by_role.values()) + original,
        ),
        base_vocabulary=base_vocabulary,
        encoder=encoder_sha256,
        evaluation={"test_auc": 0.75},
    )


def golden_batch(encoder: Encoder, rows: list[dict[str, Any]], rng: np.random.Generator) -> EncodedBatch:
    """Return 256 rows: the encoded raw `rows`, then random row ids."""
    schema, vocabulary = encoder.schema, encoder.vocabulary
    encoded = encoder.encode_rows(rows)
    rest = GOLDEN_ROWS - len(encoded)
    ids = np.empty((rest, len(schema.single)), np.int32)
    for column, position in enumerate(schema.single):
        ids[:, column] = rng.integers(0, vocabulary.rows(position), rest)
    bags = []
    for position in schema.multi:
        offsets = np.cumsum([0, *rng.integers(1, 4, rest)])
        values = rng.integers(0, vocabulary.rows(position), offsets[-1])
        bags.append(Bag(values.astype(np.int32), offsets.astype(np.int32)))
    return EncodedBatch.concatenate([encoded, EncodedBatch.uncounted(ids, tuple(bags))])


def stored_matrix(
    schema: FeatureSchema, stored: list[tuple[int, Table, np.ndarray]], batch: EncodedBatch, width: int
) -> np.ndarray:
    """Return what the lookup must write, float32 (B, width), one row and one table at a time."""
    out = np.full((len(batch), width), np.nan, np.float32)
    for position, table, values in stored:
        columns = slice(table.column, table.column + table.dim)
        for row in range(len(batch)):
            if position in schema.single:
                out[row, columns] = values[batch.ids[row, schema.single.index(position)]]
            else:
                bag = batch.bags[schema.multi.index(position)]
                ids = bag.values[bag.offsets[row] : bag.offsets[row + 1]]
                out[row, columns] = pool(values, ids, schema.fields[position].pooling)
    return out


class _Network:
    """logit = relu(x A + a) b + x w + c, where w is one on the wide columns."""

    def __init__(self, rng: np.random.Generator, width: int, wide_columns: int) -> None:
        self.A = rng.normal(0, 1 / np.sqrt(width), (width, HIDDEN)).astype(np.float32)
        self.a = rng.normal(0, 0.1, HIDDEN).astype(np.float32)
        self.b = rng.normal(0, 1, (HIDDEN, 1)).astype(np.float32)
        self.w = np.zeros((width, 1), np.float32)
        self.w[-wide_columns:] = 1
        self.c = np.array([-1.5], np.float32)

    def logits(self, stored: np.ndarray) -> np.ndarray:
        x = stored.astype(np.float64)
        return (np.maximum(x @ self.A + self.a, 0) @ self.b + x @ self.w + self.c)[:, 0].astype(np.float32)

    def onnx_bytes(self) -> bytes:
        nodes = [
            helper.make_node("Gemm", ["stored", "A", "a"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "b", "c"], ["deep"]),
            helper.make_node("MatMul", ["stored", "w"], ["wide"]),
            helper.make_node("Add", ["deep", "wide"], ["column"]),
            helper.make_node("Squeeze", ["column", "axes"], ["logit"]),
        ]
        weights = {name: getattr(self, name) for name in "Aabwc"} | {"axes": np.array([1], np.int64)}
        return onnx_model(nodes, weights, len(self.A)).SerializeToString()


def onnx_model(nodes: list[Any], weights: Mapping[str, np.ndarray], width: int, **settings: Any) -> Any:
    """Return an ONNX model with the input and output that the format asks for."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("stored", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = settings.pop("opset_imports", [helper.make_opsetid("", OPSET)])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10, **settings)
    return model


def _stored(
    name: str, codec: str, values: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """Return manifest settings, tensors and the float32 rows that they stand for."""
    codes_name = f"{name}.codes"
    if codec in ("float32", "float16"):
        codes = values.astype(codec)
        return {"codec": codec, "codes": codes_name}, {codes_name: codes}, codes.astype(np.float32)
    if codec == "int8_row":
        codes, pairs = _quantize_rows(values, 8)
        signed = (codes.astype(np.int16) - 128).astype(np.int8).view(np.uint8)
        records = np.concatenate([signed, pairs.view(np.uint8)], axis=1)
        return {"codec": codec, "codes": codes_name}, {codes_name: records}, _dequantize_rows(codes, pairs)
    _, scale, layout = codec.split()
    return _packed(name, values, scale, layout)


def _packed(
    name: str, values: np.ndarray, scale: str, layout: str
) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    data = bytearray()
    segments, rows = [], []
    column_minimums = values.min(axis=0)
    column_scales = (np.ptp(values, axis=0) / 63).astype(np.float32)
    start = 0
    widths = SEGMENT_BITS[scale]
    for bits, part in zip(widths, np.array_split(values, len(widths)), strict=True):
        segments.append(Segment(bits=bits, start_row=start, rows=len(part), byte_base=len(data)))
        start += len(part)
        if bits == 0:
            rows.append(np.zeros_like(part))
        elif scale == "row":
            codes, pairs = _quantize_rows(part, bits)
            rows.append(_dequantize_rows(codes, pairs))
            for row, pair in zip(codes, pairs, strict=True):
                data += pack_row(row, bits, layout) + pair.tobytes()
        else:
            steps = np.rint((part - column_minimums) / column_scales)
            codes = np.clip(steps, 0, 2**bits - 1).astype(np.uint8)
            rows.append(column_scales * codes.astype(np.float32) + column_minimums)
            for row in codes:
                data += pack_row(row, bits, layout)
    settings = {"codec": "packed", "scale": scale, "layout": layout, "segments": tuple(segments)}
    tensors = {f"{name}.codes": np.frombuffer(bytes(data), np.uint8)}
    if scale == "column":
        tensors |= {f"{name}.scales": column_scales, f"{name}.minimums": column_minimums}
        settings |= {"scales": f"{name}.scales", "minimums": f"{name}.minimums"}
    return {**settings, "codes": f"{name}.codes"}, tensors, np.concatenate(rows)


def _quantize_rows(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unsigned codes (N, d) and float16 pairs (N, 2) of scale and minimum."""
    minimums = values.min(axis=1, keepdims=True).astype(np.float16)
    scales = (np.ptp(values, axis=1, keepdims=True) / (2**bits - 1)).astype(np.float16)
    steps = (values - minimums.astype(np.float32)) / np.maximum(scales.astype(np.float32), 1e-12)
    return np.clip(np.rint(steps), 0, 2**bits - 1).astype(np.uint8), np.concatenate(
        [scales, minimums], axis=1
    )


def _dequantize_rows(codes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    scales, minimums = pairs.astype(np.float32).T[:, :, None]
    rows: np.ndarray = scales * codes.astype(np.float32) + minimums
    return rows
