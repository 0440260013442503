"""`slimctr models`: what each command prints and changes."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from artifacts import build_artifact
from typer.testing import CliRunner

from model_store.errors import Conflict, NotFound, StoreError
from model_store.store import ModelStore
from model_store.tensors import map_tensors, write_tensors
from slimctr.cli import app as cli
from slimctr.commands.models import app, list_models


@pytest.fixture
def root(tmp_path):
    build_artifact(tmp_path, label="stable", compressed=False)
    build_artifact(tmp_path)
    return tmp_path


@pytest.fixture
def run(root):
    def call(*arguments, status=0):
        result = CliRunner().invoke(app, [*arguments, "--store", str(root)], env={"COLUMNS": "160"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status
        return result.output

    return call


def test_list(run, root):
    output = run("list")
    lines = [line.split() for line in output.splitlines() if " ctr " in line]
    assert [line[3] for line in lines] == ["1", "2"]
    assert "stable" in lines[0]
    assert "ptq" in lines[1]


def test_list_shows_versions_whose_labels_cannot_be_read(root, capsys):
    (root / "ctr" / "labels.json").write_text("{")
    with pytest.raises(StoreError, match=r"ctr/labels\.json"):
        list_models(root)
    assert "ptq" in capsys.readouterr().out


def test_verify_of_nothing_is_an_error(tmp_path):
    """A typing error in the path of a store is no store that passes."""
    for store in (tmp_path, tmp_path / "none"):
        result = CliRunner().invoke(app, ["verify", "--store", str(store)])
        assert isinstance(result.exception, StoreError)
        assert "nothing was verified" in str(result.exception)


@pytest.mark.parametrize(
    "command", [["models", "list"], ["models", "show", "ctr"], ["models", "verify", "ctr@1"]]
)
def test_the_store_is_that_of_the_service(command, root, tmp_path_factory, monkeypatch):
    """The variable of `slimctr serve` counts; an option wins over it, an empty variable is none."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    for variable, options in ((str(root), []), ("nowhere", ["--store", str(root)])):
        result = CliRunner().invoke(cli, [*command, *options], env={"SLIMCTR_STORE": variable})
        assert result.exit_code == 0, result.output
        assert "ctr" in result.output
    (elsewhere / "models").symlink_to(root)
    assert "ctr" in CliRunner().invoke(cli, command, env={"SLIMCTR_STORE": ""}).output


def test_list_of_nothing(tmp_path):
    result = CliRunner().invoke(app, ["list", "--store", str(tmp_path / "none")])
    assert "holds no model" in result.output


def test_list_shows_the_rest_when_a_version_is_damaged(root, capsys):
    manifest = root / "ctr" / "1" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    with pytest.raises(StoreError, match="ctr@1 is not readable"):
        list_models(root)
    assert "ptq" in capsys.readouterr().out


def test_show(run):
    output = run("show", "ctr@2")
    assert "ctr@2" in output
    assert "times smaller than the original" in output
    assert "packed stream" in output
    assert json.loads(run("show", "ctr", "--json"))["version"] == "1"
    with pytest.raises(NotFound, match="no version 3"):
        run("show", "ctr@3")


def test_verify(run, root):
    assert run("verify").count("ok, golden rows within") == 2
    assert "ctr@2: ok" in run("verify", "ctr@2")
    network = root / "ctr" / "2" / "network.onnx"
    network.chmod(0o644)
    os.truncate(network, 10)
    output = run("verify", status=1)
    assert "ctr@1: ok" in output
    assert "ctr@2: FAILED" in output


def test_label(run, root):
    assert "label canary → 2, revision 2" in run("label", "ctr@2", "canary")
    assert ModelStore(root).labels("ctr").labels == {"stable": "1", "canary": "2"}
    with pytest.raises(Conflict):
        run("label", "ctr@2", "canary", "--expected-revision", "0")
    assert "label canary removed" in run("label", "ctr", "canary", "--remove")
    assert ModelStore(root).labels("ctr").labels == {"stable": "1"}


def test_remove(run, root):
    with pytest.raises(Conflict, match="labeled stable"):
        run("remove", "ctr@1", "--yes")
    run("remove", "ctr@stable", "--yes", status=2)
    run("remove", "ctr@2", status=1)
    assert ModelStore(root).versions("ctr") == [1, 2]
    assert "ctr@2 removed" in run("remove", "ctr@2", "--yes")
    assert ModelStore(root).versions("ctr") == [1]


OLD = Path(__file__).parents[2] / "golden" / "v1"


@pytest.fixture
def old(tmp_path):
    """A store with the version that was published before seals and golden values existed."""
    number = json.loads((OLD / "manifest.json").read_text())["version"]
    shutil.copytree(OLD, tmp_path / "models" / "golden" / number)
    for path in (tmp_path / "models").rglob("*.*"):
        path.chmod(0o644)
    return tmp_path / "models" / "golden" / number


def verify_old(old, status):
    result = CliRunner().invoke(app, ["verify", "--store", str(old.parents[1])], env={"COLUMNS": "1000"})
    assert result.exit_code == status
    return result.output


def test_verify_says_what_a_version_of_before_does_not_let_it_check(old):
    output = verify_old(old, 0)
    assert "; not sealed, an edited manifest would pass (copy 1.sha256 too, or use --seal)" in output
    assert "; without golden values (publish again to have them)" in output


def repair(version):
    document = json.loads((version / "manifest.json").read_text())
    for name, entry in document["files"].items():
        entry["sha256"] = hashlib.sha256((version / name).read_bytes()).hexdigest()
    return document


def test_a_rotated_vocabulary_of_a_version_of_before_is_refused(old):
    tensors = {name: np.array(tensor) for name, tensor in map_tensors(old / "vocabulary.safetensors").items()}
    first, last = tensors["directory"][tensors["buckets"][:2]]
    tensors["entries"][first:last, 1] = np.roll(tensors["entries"][first:last, 1], 1)
    write_tensors(old / "vocabulary.safetensors", tensors)
    (old / "manifest.json").write_text(json.dumps(repair(old)))
    assert "encoder is" in verify_old(old, 1)


def test_edited_features_of_a_version_of_before_are_refused(old):
    document = repair(old)
    price = next(field for field in document["features"]["fields"] if field["name"] == "price")
    price["bucketing"] = {"kind": "edges", "edges": [1.0, 5.0]}
    (old / "manifest.json").write_text(json.dumps(document))
    assert "encoder is" in verify_old(old, 1)


def test_a_base_vocabulary_that_no_step_explains_is_refused(old):
    document = {**repair(old), "base_vocabulary": "0" * 64, "method": []}
    (old / "manifest.json").write_text(json.dumps(document))
    assert "base_vocabulary is 0000000000000000…" in verify_old(old, 1)


def test_verify_goes_on_whatever_a_version_provokes(run, monkeypatch):
    def broken(scorer):
        raise ZeroDivisionError("no such thing")

    monkeypatch.setattr("slimctr.scoring.Scorer.check_golden", broken)
    assert run("verify", status=1).count("FAILED: ZeroDivisionError: no such thing") == 2
