"""Versions that are damaged but agree with themselves: the digests of files are repaired after each damage.

Every one is refused by the scorer, by the service and by `slimctr models verify`, each with its reason. The damage is
tried twice: with the seal as it was published, and with a seal that was made again, as if the publisher had erred.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from live_service import live_service
from onnx import numpy_helper
from typer.testing import CliRunner

from model_store.errors import IntegrityError, StoreError
from model_store.seal import seal_of, seal_path
from model_store.store import ModelStore
from model_store.tensors import map_tensors, write_tensors
from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.commands.models import app
from slimctr.compression import compress
from slimctr.errors import SlimctrError
from slimctr.export import publish_run
from slimctr.features import FeatureSchema, Vocabulary
from slimctr.scoring import Scorer
from slimctr.training import TrainConfig, train

pytestmark = pytest.mark.slow  # loads each damage in a service

ROWS = 3_000
VALUES = 40
SCHEMA = {
    "fields": [
        {"name": "user", "kind": "categorical"},
        {"name": "item", "kind": "categorical", "required": True},
        {
            "name": "price",
            "kind": "numeric",
            "bucketing": {"kind": "edges", "edges": [1.0, 2.5, 5.0, 7.5, 20.0]},
        },
        {"name": "age", "kind": "numeric", "bucketing": {"kind": "log_squared"}},
        {"name": "site", "kind": "categorical", "hash_rows": 16},
        {"name": "tags", "kind": "categorical", "multivalued": True},
    ]
}
Document = dict[str, Any]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A store with `ctr`, float and quantized, and `other`, the float run again: published by the exporter."""
    root = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(5)
    tags = [[str(tag) for tag in rng.choice(["red", "blue", "new"], rng.integers(0, 4))] for _ in range(ROWS)]
    columns = {
        "user": pa.array([f"u{n}" if n else None for n in rng.integers(0, VALUES + 1, ROWS)]),
        "item": pa.array([f"i{n}" for n in rng.integers(1, VALUES + 1, ROWS)]),
        "price": pa.array(rng.exponential(6, ROWS)),
        "age": pa.array(rng.integers(1, 90, ROWS)),
        "site": pa.array([f"s{n}" for n in rng.integers(0, 50, ROWS)]),
        "tags": pa.array(tags, pa.list_(pa.string())),
    }
    clicked = (rng.random(ROWS) < 0.3).astype(np.int8)
    pq.write_table(pa.table({"clicked": clicked, **columns}), root / "log.parquet")
    (root / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    settings = PrepareSettings("parquet", root / "log.parquet", "clicked", root / "schema.yaml")
    prepare(settings, root / "data")
    config = {"network": "dnn", "dim": 4, "epochs": 1, "batch_rows": 256, "params": {"hidden": [16]}}
    run = train(TrainConfig.resolve(config), root / "data", root / "run")
    store = ModelStore(root / "models")
    publish_run(run, store, "ctr")
    publish_run(
        compress(run, "ptq", {"bits": 8, "epochs": 0}, None, root / "small"), store, "ctr", label="stable"
    )
    publish_run(run, store, "other")
    return root / "models"


@pytest.fixture
def store(published, tmp_path) -> ModelStore:
    """A writable copy of that store."""
    root = tmp_path / "models"
    shutil.copytree(published, root)
    for path in root.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    return ModelStore(root)


def repair(version: Path) -> None:
    """Make the digests of files in the manifest those of the files."""

    def change(document: Document) -> None:
        for name in document["files"]:
            data = (version / name).read_bytes()
            document["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    edit(version, change)


def seal_again(version: Path) -> None:
    manifest = (version / "manifest.json").read_bytes()
    seal_path(version).write_bytes(seal_of(manifest, json.loads(manifest)["version"]))


def edit(version: Path, change: Callable[[Document], object]) -> None:
    document = json.loads((version / "manifest.json").read_text())
    change(document)
    (version / "manifest.json").write_text(json.dumps(document, indent=1) + "\n")


def edit_tensors(version: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = {key: np.array(tensor) for key, tensor in map_tensors(version / name).items()}
    change(tensors)
    write_tensors(version / name, tensors)


def field(document: Document, name: str) -> Document:
    return next(field for field in document["features"]["fields"] if field["name"] == name)


def reorder_vocabulary(order: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Give the values of the field `user` each other's rows."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        first, last = arrays["directory"][arrays["buckets"][:2]]
        arrays["entries"][first:last, 1] = order(arrays["entries"][first:last, 1])

    return lambda version: edit_tensors(version, "vocabulary.safetensors", change)


def swap_two_values(version: Path) -> None:
    """Swap the rows of two values that no golden value has: only the digest of the encoder sees it."""
    values = {str(value) for value in json.loads((version / "golden.json").read_text())["values"]["user"]}
    unseen = [f"u{n}" for n in range(1, VALUES + 1) if f"u{n}" not in values][:2]
    scorer = Scorer.open(version)
    rows = scorer.encoder.encode_rows([{"user": user, "item": "i1"} for user in unseen]).ids[:, 0]

    def change(arrays: dict[str, np.ndarray]) -> None:
        first, last = arrays["directory"][arrays["buckets"][:2]]
        part = arrays["entries"][first:last, 1]
        part[np.isin(part, rows)] = part[np.isin(part, rows)][::-1]

    edit_tensors(version, "vocabulary.safetensors", change)


def swap_vocabularies(version: Path) -> None:
    """Give the field `user` the values of `item`, and the other way round."""
    schema = FeatureSchema.parse(json.loads((version / "manifest.json").read_text())["features"])
    users, items = ([f"{letter}{n}" for n in range(1, VALUES + 1)] for letter in "ui")
    swapped = Vocabulary.build(
        schema, {"user": ["", *items], "item": users, "price": [], "age": [], "tags": []}
    ).arrays

    def change(arrays: dict[str, np.ndarray]) -> None:
        sizes = np.diff(arrays["buckets"])
        assert (sizes[:2] == np.diff(swapped["buckets"])[:2]).all()
        count = len(swapped["entries"])
        arrays["entries"][:count] = swapped["entries"]
        arrays["directory"][: int(sizes[:2].sum()) + 1] = swapped["directory"]

    edit_tensors(version, "vocabulary.safetensors", change)


def edit_features(name: str, **settings: object) -> Callable[[Path], None]:
    return lambda version: edit(version, lambda document: field(document, name).update(settings))


def edit_kind(version: Path) -> None:
    def change(document: Document) -> None:
        field(document, "age")["kind"] = "categorical"
        del field(document, "age")["bucketing"]

    edit(version, change)


def swap_fields(version: Path) -> None:
    def change(document: Document) -> None:
        fields = document["features"]["fields"]
        fields[0], fields[1] = fields[1], fields[0]

    edit(version, change)


def permute_table(version: Path) -> None:
    name = json.loads((version / "manifest.json").read_text())["tables"][0]["codes"]

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = np.roll(tensors[name].reshape(VALUES + 2, -1), 1, axis=0).reshape(tensors[name].shape)

    edit_tensors(version, "tables.safetensors", change)


def edit_bias(version: Path) -> None:
    """Shift every logit, as an edited calibration does."""
    model = onnx.load(version / "network.onnx")
    biases = [item for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT]
    last = min(biases, key=lambda item: int(np.prod(item.dims)))
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) + np.float32(0.5), last.name))
    (version / "network.onnx").write_bytes(model.SerializeToString())


def edit_scales(version: Path) -> None:
    """Change the scale in every record of a table: the last four bytes are scale and minimum."""
    name = json.loads((version / "manifest.json").read_text())["tables"][0]["codes"]

    def change(tensors: dict[str, np.ndarray]) -> None:
        records = tensors[name].reshape(VALUES + 2, -1)
        scales = np.ascontiguousarray(records[:, -4:-2]).view("<f2")
        records[:, -4:-2] = (scales * np.float16(2)).view(np.uint8)

    edit_tensors(version, "tables.safetensors", change)


def empty_golden(version: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors.update(ids=tensors["ids"][:0], logits=tensors["logits"][:0])
        tensors.update(
            bag_tags_values=tensors["bag_tags_values"][:0], bag_tags_offsets=tensors["bag_tags_offsets"][:1]
        )

    edit_tensors(version, "golden.safetensors", change)


def replace_golden_ids(version: Path) -> None:
    edit_tensors(version, "golden.safetensors", lambda t: t.update(ids=np.roll(t["ids"], 1, axis=0)))


def edit_golden_values(version: Path) -> None:
    document = json.loads((version / "golden.json").read_text())
    document["values"]["user"].reverse()
    (version / "golden.json").write_text(json.dumps(document))


def shorten_golden_values(version: Path) -> None:
    document = json.loads((version / "golden.json").read_text())
    document["values"]["user"].pop()
    (version / "golden.json").write_text(json.dumps(document))


def edit_base_vocabulary(version: Path) -> None:
    edit(version, lambda document: document.update(base_vocabulary="0" * 64))


def edit_encoder(version: Path) -> None:
    edit(version, lambda document: document.update(encoder="0" * 64))


def another_version(version: Path) -> None:
    shutil.rmtree(version)
    shutil.copytree(version.with_name("1"), version)


def another_model(version: Path) -> None:
    shutil.copyfile(version.parents[1] / "other" / "1" / "manifest.json", version / "manifest.json")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "rotated vocabulary": (
        reorder_vocabulary(lambda rows: np.roll(rows, 1)),
        r"golden\.json: value \d+ of field 'user' gets row \d+ of its table, at publishing it got \d+",
    ),
    "shuffled vocabulary": (
        reorder_vocabulary(np.random.default_rng(1).permutation),
        r"golden\.json: (value \d+ of )?field 'user'",
    ),
    "two values swapped": (
        swap_two_values,
        r"encoder is [0-9a-f]{16}…, features and vocabulary\.safetensors give",
    ),
    "vocabularies of two fields swapped": (
        swap_vocabularies,
        r"golden\.json: (value \d+ of )?field '(user|item)'",
    ),
    "edited edges": (
        edit_features("price", bucketing={"kind": "edges", "edges": [1.0, 2.5, 5.5, 7.5, 20.0]}),
        r"golden\.json: value \d+ of field 'price' gets row",
    ),
    "an edge moved by little": (
        edit_features("price", bucketing={"kind": "edges", "edges": [1.0, 2.5, 5.000001, 7.5, 20.0]}),
        r"golden\.json: (value \d+ of )?field 'price'",
    ),
    "edited kind": (edit_kind, r"golden\.json: (value \d+ of )?field 'age'"),
    "edited bucketing": (
        edit_features("age", bucketing={"kind": "edges", "edges": [30.0]}),
        r"golden\.json: (value \d+ of )?field 'age'",
    ),
    "edited order of fields": (swap_fields, r"field 'item': the seed is not of this name"),
    "a required field made optional": (edit_features("item", required=False), "encoder is"),
    "edited pooling": (edit_features("tags", pooling="sum"), "encoder is"),
    "edited minimum count": (edit_features("user", min_count=2), "encoder is"),
    "edited number of hash rows": (edit_features("site", hash_rows=15), "field 'site': 17 rows"),
    "edited encoder": (edit_encoder, r"encoder is 0000000000000000…"),
    "edited base vocabulary": (
        edit_base_vocabulary,
        r"base_vocabulary is 0000000000000000…, golden\.json says",
    ),
    "permuted rows of a table": (permute_table, r"golden row \d+ gives"),
    "edited scales": (edit_scales, r"golden row \d+ gives"),
    "edited calibration": (edit_bias, r"golden row \d+ gives"),
    "no golden rows": (empty_golden, r"golden\.safetensors: ids are \(0, 5\)"),
    "other golden rows": (replace_golden_ids, r"golden\.json: value \d+ of field"),
    "other golden values": (edit_golden_values, r"golden\.json: (value \d+ of )?field 'user'"),
    "fewer golden values of a field": (shorten_golden_values, r"golden\.json: (value \d+ of )?field 'user'"),
    "folder of another version": (another_version, r"this folder is ctr/2, its manifest is that of ctr/1"),
    "manifest of another model": (another_model, r"this folder is ctr/2, its manifest is that of other/1"),
}
# What no engine can know to be wrong: only the seal says that it was published otherwise.
SEALED_ONLY: dict[str, Callable[[Document], object]] = {
    "edited sampling rate": lambda document: document.update(negative_sampling_rate=0.5),
    "edited evaluation": lambda document: document["evaluation"].update(test_auc=0.99),
    "edited date": lambda document: document.update(created="2020-01-01T00:00:00Z"),
    "looser parity": lambda document: document.update(parity_atol=1.0),
    "edited lineage": lambda document: document["lineage"].clear(),
}


def refused(store: ModelStore) -> str:
    """Load `ctr@2` as the service does; return why it is refused, and check that `verify` and the pool say the same."""
    with pytest.raises((StoreError, SlimctrError)) as caught, store.open("ctr", 2) as artifact:
        Scorer.of(artifact).check_golden()
    root = store.path("ctr", 1).parents[1]
    result = CliRunner().invoke(app, ["verify", "--store", str(root)], env={"COLUMNS": "1000"})
    assert result.exit_code == 1
    lines = dict(line.split(": ", 1) for line in result.output.splitlines())
    assert lines["ctr@1"].startswith("ok, golden rows within")
    assert lines["other@1"].startswith("ok, golden rows within")
    assert lines["ctr@2"] == f"FAILED: {' '.join(str(caught.value).split())}"
    return str(caught.value)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_version_that_agrees_with_itself_is_refused_with_its_reason(name, store):
    damage, reason = DAMAGE[name]
    version = store.path("ctr", 2)
    damage(version)
    repair(version)
    if "this folder is" not in reason:
        assert "manifest.json: is not the manifest that was published: its sha256 is" in refused(store)
        seal_again(version)
        with pytest.raises((StoreError, SlimctrError), match=reason):
            Scorer.open(version).check_golden()
    assert re.search(reason, refused(store))


@pytest.mark.parametrize("name", SEALED_ONLY)
def test_what_only_the_publisher_knows_is_held_by_the_seal(name, store):
    edit(store.path("ctr", 2), SEALED_ONLY[name])
    assert "is not the manifest that was published" in refused(store)


def test_the_folder_of_another_version_that_was_renamed_in_its_manifest_is_refused(store):
    version = store.path("ctr", 2)
    another_version(version)
    edit(version, lambda document: document.update(version="2"))
    assert "is not the manifest that was published" in refused(store)


def test_the_service_refuses_each_with_its_reason_and_the_old_version_keeps_serving(store, tmp_path):
    root = store.path("ctr", 1).parents[1]
    damaged = {}
    for number, name in enumerate(DAMAGE, start=3):
        version = root / "ctr" / str(number)
        shutil.copytree(root / "ctr" / "2", version)
        edit(version, lambda document, number=number: document.update(version=str(number)))
        DAMAGE[name][0](version)
        repair(version)
        damaged[number] = DAMAGE[name][1].replace("ctr/2", f"ctr/{number}")
    edited = max(damaged) + 1
    shutil.copytree(root / "ctr" / "2", root / "ctr" / str(edited))
    edit(root / "ctr" / str(edited), lambda document: document.update(version=str(edited)))
    seal_again(root / "ctr" / str(edited))
    edit(root / "ctr" / str(edited), SEALED_ONLY["edited evaluation"])
    damaged[edited] = "is not the manifest that was published"
    row = {"user": "u1", "item": "i2", "price": 3.5, "age": 30, "site": "s1", "tags": ["red"]}
    with live_service(root, tmp_path / "state", default_model="ctr") as service:
        before = service.predict(instances=[row])
        for number in damaged:
            store.set_label("ctr", f"damaged-{number}", number)
        store.set_label("ctr", "stable", edited)
        service.settle()
        versions = {
            int(version["version"]): version
            for version in service.http.get("/v1/models/ctr").json()["versions"]
        }
        after = service.predict(instances=[row])
    assert (
        (after["version"], after["scores"])
        == (before["version"], before["scores"])
        == ("2", before["scores"])
    )
    assert versions[2]["state"] == "ready"
    for number, reason in damaged.items():
        assert versions[number]["state"] == "unavailable"
        assert re.search(reason, versions[number]["reason"]), versions[number]["reason"]


def test_a_flipped_byte_anywhere_is_refused(store):
    version = store.path("ctr", 2)
    rng = np.random.default_rng(0)
    for path in [*sorted(version.iterdir()), seal_path(version)]:
        whole = path.read_bytes()
        places = {0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}
        for place in places:
            data = bytearray(whole)
            data[place] ^= int(rng.integers(1, 256))
            path.write_bytes(data)
            with pytest.raises(StoreError):
                store.open("ctr", 2)
            with pytest.raises((StoreError, SlimctrError)):
                Scorer.open(version)
        path.write_bytes(whole)
    store.open("ctr", 2).close()


def test_the_seal_is_what_sha256sum_prints_and_travels_beside_the_folder(store, tmp_path):
    version = store.path("ctr", 2)
    digest = hashlib.sha256((version / "manifest.json").read_bytes()).hexdigest()
    assert seal_path(version).read_text() == f"{digest}  2/manifest.json\n"
    assert store.is_sealed("ctr", 2)
    target = tmp_path / "elsewhere" / "ctr"
    target.mkdir(parents=True)
    shutil.copytree(version, target / "2")
    elsewhere = ModelStore(tmp_path / "elsewhere")
    assert not elsewhere.is_sealed("ctr", 2)
    shutil.copyfile(seal_path(version), target / "2.sha256")
    assert elsewhere.is_sealed("ctr", 2)
    elsewhere.open("ctr", 2).close()
    shutil.copyfile(seal_path(version.with_name("1")), target / "2.sha256")
    with pytest.raises(IntegrityError, match=r"the seal 2\.sha256 says .* for version 1"):
        elsewhere.open("ctr", 2)


def test_a_version_without_a_seal_is_served_said_and_can_be_sealed(store):
    root = store.path("ctr", 1).parents[1]
    seal_path(store.path("ctr", 2)).unlink()

    def verify(*options: str) -> dict[str, str]:
        result = CliRunner().invoke(app, ["verify", "--store", str(root), *options], env={"COLUMNS": "1000"})
        assert result.exit_code == 0
        return dict(line.split(": ", 1) for line in result.output.splitlines())

    lines = verify()
    assert lines["ctr@2"].endswith(
        "; not sealed, an edited manifest would pass (copy 2.sha256 too, or use --seal)"
    )
    assert "not sealed" not in lines["ctr@1"]
    assert "not sealed" not in verify("--seal")["ctr@2"]
    assert "not sealed" not in verify()["ctr@2"]
    assert store.is_sealed("ctr", 2)


def test_a_damaged_version_is_not_sealed(store):
    version = store.path("ctr", 2)
    seal_path(version).unlink()
    reorder_vocabulary(lambda rows: np.roll(rows, 1))(version)
    repair(version)
    root = store.path("ctr", 1).parents[1]
    result = CliRunner().invoke(app, ["verify", "--seal", "--store", str(root)], env={"COLUMNS": "1000"})
    assert result.exit_code == 1
    assert not store.is_sealed("ctr", 2)


def test_a_removed_version_takes_its_seal_along(store):
    store.remove("ctr", 1)
    assert sorted(path.name for path in store.path("ctr", 2).parent.iterdir()) == [
        ".removed-1",
        "2",
        "2.sha256",
        "labels.json",
    ]
