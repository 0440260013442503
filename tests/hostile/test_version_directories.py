"""Every version directory that the engine refuses, one per refusal, made by damaging a good one."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from artifacts import build_artifact

from model_store.errors import IntegrityError, ManifestError
from model_store.tensors import map_tensors, write_tensors
from slimctr.errors import EngineError, ParityError
from slimctr.scoring import Scorer


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return build_artifact(tmp_path_factory.mktemp("store"))


@pytest.fixture
def version(good, tmp_path) -> Path:
    """Return a writable copy of the good version."""
    copy = tmp_path / "1"
    shutil.copytree(good, copy)
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


def edit_manifest(version: Path, change) -> None:
    path = version / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rehash(version: Path, name: str) -> None:
    """Make the manifest agree with a damaged file, so that only the engine's own checks can refuse it."""
    data = (version / name).read_bytes()

    def change(document):
        document["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    edit_manifest(version, change)


def edit_tensors(version: Path, name: str, change) -> None:
    tensors = {key: np.array(tensor) for key, tensor in map_tensors(version / name).items()}
    change(tensors)
    write_tensors(version / name, tensors)
    rehash(version, name)


def table(document, field, role="embedding"):
    return next(t for t in document["tables"] if t["field"] == field and t["role"] == role)


def test_the_undamaged_copy_is_served(version):
    scorer = Scorer.open(version)
    assert scorer.check_golden() <= scorer.manifest.parity_atol


DAMAGED_FILES = {
    "flipped bit": (lambda v: flip(v / "tables.safetensors"), "altered"),
    "flipped bit of the network": (lambda v: flip(v / "network.onnx"), "altered"),
    "truncated": (lambda v: os.truncate(v / "tables.safetensors", 100), "100 bytes where"),
    "grown": (lambda v: (v / "network.onnx").write_bytes(b"x" * 4096), "4096 bytes where"),
    "missing": (lambda v: (v / "network.onnx").unlink(), "missing network.onnx"),
    "unlisted": (lambda v: (v / "notes.txt").write_text("x"), "not in the manifest: notes.txt"),
    "hidden": (lambda v: (v / ".cache").mkdir(), "not in the manifest: .cache"),
    "link": (lambda v: link(v / "network.onnx"), "regular file"),
    "pipe": (lambda v: pipe(v / "network.onnx"), "regular file"),
    "absent directory": (shutil.rmtree, "manifest.json"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_damaged_files(name, version):
    damage, reason = DAMAGED_FILES[name]
    damage(version)
    with pytest.raises((IntegrityError, ManifestError), match=reason):
        Scorer.open(version)


MANIFESTS = {
    "unknown key": (lambda d: d.update(note="x"), "note"),
    "unknown key of a table": (lambda d: d["tables"][0].update(note="x"), "note"),
    "newer schema": (lambda d: d.update(schema_version=2), "schema version 2"),
    "no schema": (lambda d: d.pop("schema_version"), "schema version None"),
    "missing key": (lambda d: d.pop("encoder"), "encoder"),
    "wrong type": (lambda d: d.update(parity_atol="1e-4"), "parity_atol"),
    "infinite tolerance": (lambda d: d.update(parity_atol=1e999), "not a JSON number|parity_atol"),
    "path in a file name": (lambda d: d["files"].update({"../x": d["files"]["network.onnx"]}), "cannot name"),
    "its own digest": (
        lambda d: d["files"].update({"manifest.json": d["files"]["network.onnx"]}),
        "cannot name",
    ),
    "required file not listed": (lambda d: d["files"].pop("network.onnx"), "network.onnx is not listed"),
    "bad digest": (lambda d: d["files"]["network.onnx"].update(sha256="0" * 63), "sha256"),
    "network elsewhere": (lambda d: d["network"].update(file="/etc/passwd"), "network.file"),
    "opset too old": (lambda d: d["network"].update(opset=12), "network.opset"),
    "unknown codec": (lambda d: d["tables"][0].update(codec="pickle"), "tables.0.codec"),
    "packed without layout": (lambda d: table(d, "user").update(layout=None), "needs layout"),
    "layout of a float table": (lambda d: table(d, "price").update(layout="planes"), "takes no layout"),
    "column scale without scales": (lambda d: table(d, "site").update(scales=None), "scale is 'column'"),
    "row scale with scales": (
        lambda d: table(d, "user").update(scales="a", minimums="b"),
        "scale is 'column'",
    ),
    "segment gap": (lambda d: table(d, "user")["segments"][1].update(start_row=14), "should start"),
    "segment missing": (lambda d: table(d, "user")["segments"].pop(), "of 61 rows"),
    "nine bits": (lambda d: table(d, "user")["segments"][0].update(bits=9), "bits"),
    "version zero": (lambda d: d.update(version="0"), "version"),
    "model name": (lambda d: d.update(model="../ctr"), "model"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(name, version):
    change, reason = MANIFESTS[name]
    edit_manifest(version, change)
    with pytest.raises(ManifestError, match=reason):
        Scorer.open(version)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "manifest.json"),
        ("[]", "not a JSON object"),
        ('{"schema_version": 1, "schema_version": 1}', "appears twice"),
        ('{"schema_version": NaN}', "not a JSON number"),
        ('{"a":' + "[" * 100_000, "nested"),
    ],
)
def test_manifests_that_are_not_one_strict_object(text, reason, version):
    (version / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=reason):
        Scorer.open(version)


UNSERVABLE = {
    "unknown field": (lambda d: table(d, "user").update(field="nobody"), "no field 'nobody'"),
    "two tables of one role": (lambda d: table(d, "ad", "wide").update(field="user"), "two tables"),
    "columns overlap": (lambda d: table(d, "ad").update(column=5), "written twice"),
    "columns left out": (lambda d: table(d, "ad").update(column=7), "left out|written twice"),
    "columns past the network": (lambda d: d["network"].update(width=36), "the network reads 36"),
    "one tensor twice": (lambda d: table(d, "ad", "wide").update(codes="wide.user.codes"), "share a tensor"),
    "absent tensor": (lambda d: table(d, "ad").update(codes="gone"), "gone"),
    "rows differ": (lambda d: table(d, "ad").update(rows=30), "needs uint8"),
    "segment misplaced": (lambda d: table(d, "user")["segments"][1].update(byte_base=1), "misplaced"),
    "bits differ": (lambda d: table(d, "user")["segments"][0].update(bits=4), "misplaced"),
    "layout differs": (lambda d: table(d, "site").update(dim=7), "written twice|is misplaced"),
    "payload differs": (lambda d: d["bytes"].update(payload=1), "claims a payload of 1"),
    "opset differs": (lambda d: d["network"].update(opset=19), "opset 19"),
    "features of no schema": (lambda d: d.update(features={"fields": []}), "at least one field"),
    "features without a field": (lambda d: d["features"]["fields"].pop(), "vocabulary"),
    "features of another kind": (lambda d: d["features"]["fields"][3].update(hash_rows=8), "vocabulary"),
}


@pytest.mark.parametrize("name", UNSERVABLE)
def test_manifests_that_do_not_fit_the_files(name, version):
    change, reason = UNSERVABLE[name]
    edit_manifest(version, change)
    with pytest.raises(EngineError, match=reason):
        Scorer.open(version)


def put(key, at, value):
    def change(tensors):
        tensors[key][at] = value

    return change


def put_half(key, at):
    """Overwrite a little-endian float16 inside records with an infinity."""

    def change(tensors):
        flat = tensors[key].reshape(-1)
        flat[at : at + 2 or None] = np.array([np.inf], np.float16).view(np.uint8)

    return change


TENSORS = {
    "NaN in a float table": ("tables", put("wide.user.codes", (3, 0), np.nan), "wide.user.codes"),
    "infinity in a half table": ("tables", put("embedding.price.codes", (1, 2), np.inf), "price"),
    "infinite row scale": ("tables", put_half("embedding.ad.codes", -4), "embedding.ad.codes"),
    "infinite row minimum": ("tables", put_half("embedding.user.codes", -2), "embedding.user.codes"),
    "NaN column scale": ("tables", put("embedding.site.scales", 0, np.nan), "site.scales"),
    "infinite column minimum": ("tables", put("embedding.site.minimums", 5, np.inf), "site.minimums"),
    "tensor of no table": ("tables", lambda t: t.update(more=np.zeros(1)), "more"),
    "codes of another type": (
        "tables",
        lambda t: t.update({"wide.user.codes": t["wide.user.codes"].astype(np.float64)}),
        "float64",
    ),
    "packed codes too short": (
        "tables",
        lambda t: t.update({"embedding.user.codes": t["embedding.user.codes"][:-1]}),
        "misplaced",
    ),
    "packed codes too long": (
        "tables",
        lambda t: t.update({"embedding.user.codes": np.append(t["embedding.user.codes"], np.uint8(0))}),
        "belong to no segment",
    ),
    "column scales too short": (
        "tables",
        lambda t: t.update({"embedding.site.scales": t["embedding.site.scales"][:-1]}),
        "site.scales",
    ),
    "vocabulary row outside its table": ("vocabulary", put("entries", (0, 1), 1000), "outside"),
    "vocabulary directory": ("vocabulary", put("directory", -1, 0), "directory"),
    "golden rows without logits": ("golden", lambda t: t.pop("logits"), "logits"),
    "golden logits not finite": ("golden", put("logits", 0, np.nan), "finite"),
    "golden bag malformed": ("golden", put("bag_tags_offsets", 0, 1), "offsets"),
    "golden ids of another type": (
        "golden",
        lambda t: t.update(ids=t["ids"].astype(np.int64)),
        "int32",
    ),
    "no golden rows": (
        "golden",
        lambda t: t.update(
            ids=t["ids"][:0], logits=t["logits"][:0], bag_tags_offsets=t["bag_tags_offsets"][:1]
        ),
        "ids are",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name, version):
    file, change, reason = TENSORS[name]
    edit_tensors(version, f"{file}.safetensors", change)
    with pytest.raises(EngineError, match=reason):
        Scorer.open(version)


def test_golden_rows_that_score_differently(version):
    edit_tensors(version, "golden.safetensors", put("logits", 17, 0.125))
    scorer = Scorer.open(version)
    with pytest.raises(ParityError, match=r"golden row 17 .* 0\.125 is stored"):
        scorer.check_golden()


def test_a_table_that_scores_differently(version):
    edit_tensors(version, "tables.safetensors", put("wide.user.codes", (0, 0), 9.0))
    with pytest.raises(ParityError):
        Scorer.open(version).check_golden()
