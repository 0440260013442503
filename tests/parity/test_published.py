"""A published version scores like its torch model, its byte figures add up, and what differs is not published."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rounding import FLOAT32, assert_same_logits, gamma, probability_error, served_logits
from tiny_runs import tiny_run

from model_store.store import ModelStore
from slimctr.compression import compress
from slimctr.errors import ConfigError, ExportError
from slimctr.export import artifact, publish_run
from slimctr.networks import NETWORKS
from slimctr.scoring import Scorer, sigmoid
from slimctr.training import save_run

pytestmark = pytest.mark.slow  # publishes every network


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return tiny_run(dataset, tmp_path_factory.mktemp("run") / "deepfm", negative_sampling_rate=0.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def original(run, store):
    return publish_run(run, store, "deepfm", "stable")


@pytest.fixture(scope="module")
def factored(run, tmp_path_factory):
    settings = {"table_rank": 4, "mlp_rank_ratio": 0.25, "epochs": 1}
    return compress(run, "feature_pca", settings, None, tmp_path_factory.mktemp("factored") / "run")


@pytest.fixture(scope="module")
def smaller(factored, store, original, tmp_path_factory):
    compressed = compress(factored, "ptq", {}, None, tmp_path_factory.mktemp("small") / "run")
    return compressed, publish_run(compressed, store, "deepfm", "canary")


def served(store, version, batch):
    return Scorer.open(store.path(version.model, version.version)).logits(batch)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_compressed_published_and_served(network, dataset, store, tmp_path):
    run = tiny_run(dataset, tmp_path / network, network, epochs=1, params={"hidden": [24, 16]})
    factors = {"table_rank": 3, "mlp_rank_ratio": 0.25, "first_layer_ratio": 0.2, "statistics_rows": 2000}
    settings = {"feature_pca": {**factors, "epochs": 0}, "ptq": {"bits": 8}}
    smaller = compress(run, "feature_pca+ptq", settings, None, tmp_path / "small")
    assert {layer.kind for layer in smaller.spec.layers} == {"pair_linear"}
    version = publish_run(smaller, store, network)
    batch = dataset.load("test").batch
    scores = served(store, version, batch)
    exact, error = served_logits(smaller.model, batch)
    assert_same_logits(scores, exact, error)
    assert_same_logits(served(store, version, batch.slice(3, 4)), exact[3:4], error[3:4])


def test_original_serves_the_scores_of_its_run(run, dataset, store, original):
    batch = dataset.load("test").batch
    exact, error = served_logits(run.model, batch)
    assert_same_logits(
        sigmoid(served(store, original, batch)), 1 / (1 + np.exp(-exact)), probability_error(error)
    )
    assert original.parity.probability <= artifact.PROBABILITY_ATOL
    assert store.resolve("deepfm@stable") == ("deepfm", original.version)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ptq", {"bits": 4}),
        ("ptq", {"bits": 2, "wide_bits": 32}),
        ("feature_pca", {"pair": "pair_relu", "epochs": 1}),
        ("feature_pca+ptq", {"ptq": {"bits": 4}, "feature_pca": {"first_layer_ratio": 0.25, "epochs": 0}}),
    ],
)
def test_every_method_serves_the_scores_of_its_run(method, settings, run, dataset, store, tmp_path):
    compressed = compress(run, method, settings, None, tmp_path / "run")
    version = publish_run(compressed, store, "variants")
    batch = dataset.load("test").batch
    assert_same_logits(served(store, version, batch), *served_logits(compressed.model, batch))
    assert version.parity.rows == len(dataset.load("valid"))


def test_components_add_up_to_the_files(store, original, smaller):
    for version in (original, smaller[1]):
        folder = store.path(version.model, version.version)
        files = sum(file.stat().st_size for file in folder.iterdir() if file.name != "manifest.json")
        assert (
            sum(version.manifest.bytes.artifact_by_component.values())
            == files
            == version.manifest.artifact_bytes
        )
        assert sum(version.manifest.bytes.payload_by_role.values()) == version.manifest.bytes.payload


def test_bytes_of_the_original_are_known_without_it(original, smaller):
    sizes = smaller[1].manifest.bytes
    assert sizes.original_payload == original.manifest.bytes.payload
    assert sizes.original_artifact == original.manifest.artifact_bytes
    assert original.manifest.bytes.original_artifact == original.manifest.artifact_bytes
    assert sizes.payload < sizes.original_payload / 5


def test_manifest_tells_chain_encoder_and_quality(dataset, original, smaller):
    compressed, version = smaller
    manifest = version.manifest
    assert [step["method"] for step in manifest.method] == ["feature_pca", "ptq"]
    assert (manifest.encoder, manifest.base_vocabulary) == (
        original.manifest.encoder,
        original.manifest.base_vocabulary,
    )
    assert manifest.evaluation["test_auc"] == compressed.metrics["test"]["auc"]
    assert manifest.fidelity["mean_abs_logit_difference"] > 0
    assert original.manifest.fidelity == {}
    assert manifest.negative_sampling_rate == 0.5
    assert manifest.lineage["data_sha256"] == compressed.lineage.data_sha256
    assert str(dataset.path) not in manifest.model_dump_json()


def test_golden_rows_are_at_least_256_and_hold(store, smaller):
    scorer = Scorer.open(store.path("deepfm", smaller[1].version))
    assert len(scorer.golden.batch) >= 256
    exact, error = served_logits(smaller[0].model, scorer.golden.batch)
    assert_same_logits(scorer.golden.logits, exact, error, "stored logits")
    assert_same_logits(scorer.logits(scorer.golden.batch), exact, error)
    assert scorer.check_golden() <= artifact.PARITY_ATOL


def test_an_unlisted_value_reads_the_mean_row_of_its_field(dataset, store, factored, smaller):
    """No training row reads the OOV row: it holds the mean code as training counts rows, served to half a step."""
    expand, counts = factored.model.expands[0], dataset.counts("user")
    codes = factored.model.tables[0].weight.detach().double().numpy()
    share = counts / counts.sum()
    assert share[0] == 0
    # every code was rounded to float32, and before that the embedding that it is a projection of
    embedding = np.abs(expand.mean.detach().numpy()) @ np.abs(expand.basis.detach().numpy())
    rounded = 2 * FLOAT32 * (share @ np.abs(codes) + np.abs(codes[0]) + embedding)
    assert (np.abs(codes[0] - share @ codes) <= rounded).all()

    table = smaller[0].model.tables[0]
    steps, lowest = (values.double().numpy() for values in (table.scales, table.minimums))
    highest = lowest + steps * (2**table.bits - 1)
    scorer = Scorer.open(store.path("deepfm", smaller[1].version))
    batch = dataset.load("valid").batch.slice(0, 1)
    batch.ids[:, 0] = 0
    read = scorer.lookup(batch)[0, : len(steps)]
    kept = np.clip(
        codes[0], lowest, highest
    )  # a step is chosen for the least error and may leave the ends out
    assert (np.abs(read - kept) <= steps / 2 + gamma(3) * (np.abs(lowest) + highest - lowest)).all()


def test_a_model_that_scores_differently_is_refused(run, store, dataset, tmp_path, monkeypatch):
    honest = artifact.FoldedNetwork

    def shifted(model):
        network = honest(model)
        network.folded.backbone.head.bias += 0.01
        return network

    monkeypatch.setattr(artifact, "FoldedNetwork", shifted)
    with pytest.raises(ExportError, match=r"not published.*the engine differs from torch"):
        publish_run(run, store, "refused")
    assert "refused" not in store.models()


def test_a_small_difference_is_refused_for_float_tables(run, store, original, dataset):
    with torch.no_grad():
        run.model.backbone.head.bias += 9e-5
    try:
        with pytest.raises(ExportError, match=r"in the probability \(allowed 1e-04 and 1e-05\)"):
            artifact.check_parity(
                run.model, dataset.load("valid").batch, store.path("deepfm", original.version)
            )
    finally:
        with torch.no_grad():
            run.model.backbone.head.bias -= 9e-5


def test_other_table_rows_are_refused(run, store, original, dataset):
    with torch.no_grad():
        run.model.tables[2].weight[1, 0] += 1e-6
    try:
        with pytest.raises(ExportError, match="other table rows"):
            artifact.check_parity(
                run.model, dataset.load("valid").batch, store.path("deepfm", original.version)
            )
    finally:
        with torch.no_grad():
            run.model.tables[2].weight[1, 0] -= 1e-6


def test_untrained_pair_relu_is_refused_until_trained(run, store, tmp_path):
    untrained = compress(run, "feature_pca", {"pair": "pair_relu", "epochs": 0}, None, tmp_path / "untrained")
    with pytest.raises(ExportError, match="never trained"):
        publish_run(untrained, store, "pairs")
    later = compress(untrained, "ptq", {"epochs": 1}, None, tmp_path / "later")
    assert publish_run(later, store, "pairs").version == 1


def test_another_data_set_is_refused(run, store, dataset):
    digests = {**run.lineage.data_sha256, "train.parquet": "0" * 64}
    other = replace(run, lineage=run.lineage.model_copy(update={"data_sha256": digests}))
    with pytest.raises(ConfigError, match="is not the one of run"):
        publish_run(other, store, "refused", data=dataset.path)


def test_a_run_read_from_disk_publishes_the_same_files(run, store, original, tmp_path):
    from slimctr.training import load_run

    copy = replace(run, path=tmp_path / "copy")
    save_run(copy)
    again = publish_run(load_run(copy.path), store, "deepfm")
    same = {name: entry.sha256 for name, entry in again.manifest.files.items()}
    assert same == {name: entry.sha256 for name, entry in original.manifest.files.items()}
    assert json.loads(again.manifest.model_dump_json())["network"] == {
        "file": "network.onnx",
        "width": run.spec.stored_width,
        "opset": 20,
    }
