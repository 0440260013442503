"""A newer log is encoded with the schema and vocabulary of a published version, and the version is evaluated on it."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from model_store.store import ModelStore
from slimctr.clicklogs import Dataset, PrepareSettings, SplitRule, prepare
from slimctr.commands.evaluate import evaluate
from slimctr.compression import compress
from slimctr.errors import ConfigError, LogFormatError
from slimctr.export import publish_run
from slimctr.quality import summary
from slimctr.scoring import Scorer
from slimctr.training import TrainConfig, train

pytestmark = pytest.mark.slow  # trains and publishes

app = typer.Typer()
app.command()(evaluate)

SCHEMA = """
fields:
- {name: user, kind: categorical}
- {name: price, kind: numeric, bucketing: {kind: log_squared}}
- {name: tags, kind: categorical, multivalued: true}
- {name: ad, kind: categorical, hash_rows: 7}
"""


def write_log(path: Path, rows: int, seed: int, users: int) -> Path:
    draw = np.random.default_rng(seed).integers
    lines = [
        f"{draw(0, 2)},u{draw(0, users)},{draw(0, 50)},t{draw(0, 5)}|t{draw(0, 9)},a{draw(0, 30)}"
        for _ in range(rows)
    ]
    path.write_text("\n".join(["label,user,price,tags,ad", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store of four versions of one training: original, 4 bits, dropped rows, both; and a newer log."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "schema.yaml").write_text(SCHEMA)
    old = write_log(folder / "old.csv", 1500, 1, users=60)
    write_log(folder / "new.csv", 400, 2, users=90)
    prepare(PrepareSettings("csv", old, schema=folder / "schema.yaml"), folder / "data")
    small = {"network": "dnn", "dim": 4, "epochs": 1, "params": {"hidden": [8]}}
    runs = [train(TrainConfig.resolve(small), folder / "data", folder / "run")]
    drop = {"kept_share": 0.5, "epochs": 0, "zero_rows": "oov"}
    runs.append(compress(runs[0], "ptq", {"bits": 4}, folder / "data", folder / "ptq"))
    runs.append(compress(runs[0], "magnitude_rows", drop, folder / "data", folder / "rows"))
    store = ModelStore(folder / "models")
    for run in runs:
        publish_run(run, store, "ctr", data=folder / "data")
    store.set_label("ctr", "stable", 1)
    return folder


def newer(root: Path, out: Path, reference: Path, **settings) -> Dataset:
    return prepare(PrepareSettings("csv", root / "new.csv", vocabulary_of=reference, **settings), out)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_version_evaluated_on_a_newer_log_scores_its_raw_values(root, tmp_path, version):
    dataset = newer(root, tmp_path / "new", root / "models" / f"ctr@{version}")
    assert {split: info["rows"] for split, info in dataset.info["splits"].items()} == {
        "train": 0,
        "valid": 0,
        "test": 400,
    }
    assert dataset.info["vocabulary_of"] == f"ctr@{version}"
    assert dataset.info["fields"][0]["splits"]["test"]["oov"] > 0
    arguments = [
        "--store",
        root / "models",
        "--model",
        f"ctr@{version}",
        "--data",
        tmp_path / "new",
        "--json",
    ]
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    rows, labels = dataset.raw_test(1000)
    scorer = Scorer.open(root / "models" / "ctr" / str(version))
    batch = scorer.encoder.encode_rows(rows)
    np.testing.assert_array_equal(batch.ids, dataset.load("test").batch.ids)
    np.testing.assert_array_equal(batch.bags[0].values, dataset.load("test").batch.bags[0].values)
    expected = summary(labels.astype(np.float32), scorer.logits(batch))
    figures = json.loads(result.stdout)
    assert figures["rows"] == 400
    for figure in ("auc", "logloss", "ne", "calibration"):
        assert figures[figure] == expected[figure]


def test_a_version_is_named_by_label_or_folder(root, tmp_path):
    digests = set()
    for number, reference in enumerate(("models/ctr@stable", "models/ctr", "models/ctr/1")):
        dataset = newer(root, tmp_path / str(number), root / reference)
        digests.add(next(e["sha256"] for e in dataset.info["files"] if e["file"] == "test.parquet"))
        dataset.load("train")
    assert len(digests) == 1


def test_a_newer_log_may_be_cut_or_come_in_split_files(root, tmp_path):
    cut = newer(root, tmp_path / "cut", root / "models/ctr@1", split=SplitRule((0.5, 0.25, 0.25), "time"))
    assert [info["rows"] for info in cut.info["splits"].values()] == [200, 100, 100]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "test.csv").write_bytes((root / "new.csv").read_bytes())
    files = prepare(
        PrepareSettings("csv", tmp_path / "log", vocabulary_of=root / "models/ctr@1"), tmp_path / "files"
    )
    assert [info["rows"] for info in files.info["splits"].values()] == [0, 0, 400]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models/ctr@9", "--vocabulary-of .*ctr@9: .*Name a version folder"),
        ("models/other", "--vocabulary-of .*no model 'other'"),
        ("nowhere/ctr", "--vocabulary-of .*nowhere"),
        ("data", "--vocabulary-of .*Name a version folder"),
    ],
)
def test_what_is_no_version_is_named(root, tmp_path, reference, message):
    with pytest.raises(ConfigError, match=message):
        newer(root, tmp_path / "out", root / reference)
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_in_a_version_folder_is_refused(root, tmp_path):
    import shutil

    shutil.copytree(root / "models" / "ctr" / "1", tmp_path / "1")
    shutil.copyfile(
        root / "models" / "ctr" / "3" / "vocabulary.safetensors", tmp_path / "1" / "vocabulary.safetensors"
    )
    with pytest.raises(ConfigError, match="is not the vocabulary that ctr@1 was published with"):
        newer(root, tmp_path / "out", tmp_path / "1")


def test_a_log_without_a_field_of_the_version_is_refused(root, tmp_path):
    (tmp_path / "log.csv").write_text("label,user\n1,u1\n")
    with pytest.raises(LogFormatError, match="has no column price, tags, ad"):
        prepare(
            PrepareSettings("csv", tmp_path / "log.csv", vocabulary_of=root / "models/ctr@1"),
            tmp_path / "out",
        )


def test_a_version_with_other_values_says_how_to_encode_the_log(root, tmp_path):
    newer(root, tmp_path / "new", root / "models/ctr@3")
    arguments = ["--store", root / "models", "--model", "ctr@1", "--data", tmp_path / "new"]
    with pytest.raises(ConfigError, match="prepare --vocabulary-of"):
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_a_split_without_rows_is_told(root, tmp_path):
    newer(root, tmp_path / "new", root / "models/ctr@1")
    arguments = [
        "--store",
        root / "models",
        "--model",
        "ctr@1",
        "--data",
        tmp_path / "new",
        "--split",
        "valid",
    ]
    with pytest.raises(ConfigError, match=r"the valid split of .* has no rows"):
        CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_an_encoded_newer_log_is_described(root, tmp_path):
    from slimctr.commands.data import app as data_app

    newer(root, tmp_path / "new", root / "models/ctr@3")
    shown = CliRunner().invoke(data_app, ["describe", str(tmp_path / "new")], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "all rows are test" in shown.stdout
