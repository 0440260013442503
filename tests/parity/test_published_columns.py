"""Models with fewer columns in some tables are published, served as they score, and their bytes are honest."""

import pytest
from rounding import assert_same_logits, served_logits
from tiny_runs import tiny_run

from model_store.store import ModelStore
from slimctr.compression import compress
from slimctr.export import publish_run
from slimctr.scoring import Scorer

QUICK = {
    "orthogonality": 0,
    "search_batch_rows": 500,
    "search_steps": 60,
    "mask_rate": 3.0,
    "price_rate": 0.02,
}


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return tiny_run(dataset, tmp_path_factory.mktemp("run") / "dcn", "dcn", negative_sampling_rate=0.5)


@pytest.fixture(scope="module")
def original(run, tmp_path_factory):
    return publish_run(run, ModelStore(tmp_path_factory.mktemp("original")), "original")


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ham", {**QUICK, "epochs": 1}),
        ("ham", {**QUICK, "epochs": 1, "alignment": "projection"}),
        ("ham", {**QUICK, "epochs": 1, "retrain": "fresh"}),
        ("magnitude", {"epochs": 0, "budget_ratio": 0.25}),
        ("ham+ptq", {"ham": {**QUICK, "epochs": 0, "budget_ratio": 0.3}, "ptq": {"bits": 4}}),
        (
            "ham+feature_pca+ptq",
            {"ham": {**QUICK, "epochs": 0}, "feature_pca": {"table_rank": 2, "epochs": 0}},
        ),
        ("small_dim", {"budget_ratio": 0.3, "epochs": 1}),
    ],
)
def test_models_of_fewer_columns_serve_the_scores_of_their_run(
    method, settings, run, dataset, original, tmp_path
):
    compressed = compress(run, method, settings, None, tmp_path / "run")
    version = publish_run(compressed, store := ModelStore(tmp_path / "store"), "columns")
    scorer = Scorer.open(store.path("columns", version.version))
    batch = dataset.load("test").batch
    assert_same_logits(scorer.logits(batch), *served_logits(compressed.model, batch))
    sizes = version.manifest.bytes
    assert sizes.original_payload == original.manifest.bytes.payload
    assert sizes.original_artifact == original.manifest.artifact_bytes
    assert sizes.payload <= sizes.original_payload * 0.5
    assert [table.dim for table in version.manifest.tables] == [
        table.dim for table in (*compressed.spec.tables, *compressed.spec.wide)
    ]
    assert sum(sizes.artifact_by_component.values()) == version.manifest.artifact_bytes
