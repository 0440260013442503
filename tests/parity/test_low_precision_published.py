"""Tables trained as codes are published and served as they were scored, at every number of bits."""

import pytest
from rounding import assert_same_logits, served_logits
from tiny_runs import tiny_run

from model_store.store import ModelStore
from slimctr.compression import compress
from slimctr.export import publish_run
from slimctr.scoring import Scorer

pytestmark = pytest.mark.slow  # trains


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return tiny_run(dataset, tmp_path_factory.mktemp("run") / "deepfm", epochs=1)


@pytest.mark.parametrize(
    ("method", "settings", "codec", "bytes_per_row"),
    [
        ("alpt", {"bits": 16}, "float16", 16),
        ("alpt", {"bits": 8}, "int8_row", 8 + 4),
        ("alpt", {"bits": 4}, "packed", 4 + 4),
        ("alpt", {"bits": 2, "wide_bits": 32}, "packed", 2 + 4),
        ("lpt", {"bits": 8}, "packed", 8),
        ("lpt", {"bits": 2}, "packed", 2),
        ("lsq_plus", {}, "packed", 6),
        ("lsq_plus", {"bits": 1}, "packed", 1),
        ("feature_pca+lsq_plus", {"feature_pca": {"table_rank": 3, "epochs": 0}}, "packed", None),
        ("feature_pca+alpt", {"alpt": {"bits": 8}}, "int8_row", None),
        ("feature_pca+alpt", {"alpt": {"bits": 4}}, "packed", None),
        ("svd+alpt", {"svd": {"table_rank": 3, "epochs": 0}, "alpt": {"bits": 2}}, "packed", None),
        ("feature_pca+alpt", {"alpt": {"bits": 16}}, "float16", None),
        ("feature_pca+ptq", {"ptq": {"bits": 4, "low_rank_scale": "row"}}, "packed", None),
    ],
)
def test_served_scores_are_those_of_the_run(method, settings, codec, bytes_per_row, run, dataset, tmp_path):
    if "+" in method:
        first, last = method.split("+")
        tuned = {"epochs": 1, "start": "trained"} if last != "ptq" else {}
        settings = {**settings, last: {**tuned, **settings.get(last, {})}}
        settings.setdefault(first, {"table_rank": 3, "epochs": 0})
    else:
        settings = {**settings, "epochs": 1}
    compressed = compress(run, method, settings, None, tmp_path / "run")
    store = ModelStore(tmp_path / "store")
    version = publish_run(compressed, store, "model")
    table = version.manifest.tables[0]
    assert (table.codec, table.field) == (codec, "user")
    if "+" not in method:
        assert version.manifest.bytes.payload_by_role["embedding"] == bytes_per_row * sum(run.spec.rows)
    scorer = Scorer.open(store.path("model", version.version))
    batch = dataset.load("test").batch
    assert_same_logits(scorer.logits(batch), *served_logits(compressed.model, batch))
    scorer.close()
