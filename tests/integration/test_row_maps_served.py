"""An experiment between a model and its version of fewer rows: shadows encode the request's values again."""

import time
from typing import Any

import numpy as np
import pytest
import yaml
from live_service import live_service
from rounding import gamma
from tiny_runs import tiny_dataset, tiny_run

from model_store.store import ModelStore
from slimctr import quality
from slimctr.compression import compress
from slimctr.export import publish_run
from slimctr.scoring import Scorer

EXPERIMENT: dict[str, Any] = {
    "key": "rows",
    "model": "ctr",
    "variants": [
        {"name": "original", "version": 1, "weight": 1.0},
        {"name": "fewer", "version": 2, "weight": 0.0},
    ],
    "default": "original",
    "shadow": {"variant": "fewer", "percent": 100},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fewer")
    dataset = tiny_dataset(folder / "log")
    run = tiny_run(dataset, folder / "run")
    settings = {"start": "trained", "epochs": 1, "kept_share": 0.3, "zero_rows": "oov"}
    smaller = compress(run, "frequency_rule", settings, None, folder / "smaller")
    store = ModelStore(folder / "store")
    publish_run(run, store, "ctr", "stable")
    publish_run(smaller, store, "ctr", "canary")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    state = f"sqlite:///{folder / 'state.sqlite3'}"
    with live_service(
        folder / "store", folder, experiment=folder / "experiment.yaml", state_url=state
    ) as client:
        yield client, dataset, store


def test_shadow_differences_are_those_of_the_values(served):
    client, dataset, store = served
    rows, labels = dataset.raw_test(200)
    items = []
    for start in range(0, 200, 5):
        body = {"instances": rows[start : start + 5], "unit_id": f"u{start}"}
        answer = client.http.post("/v1/predict", json=body)
        assert answer.status_code == 200, answer.text
        request_id = answer.json()["request_id"]
        for index in range(5):
            item = {"outcome_id": f"{request_id}/{index}", "request_id": request_id, "index": index}
            items.append({**item, "clicked": int(labels[start + index]), "occurred_at": time.time()})
    assert client.http.post("/v1/outcomes", json={"outcomes": items}).json()["joined"] == 200
    experiments = client.app.state.experiments
    assert experiments._shadow.wait_until_idle(20)
    client.call(experiments.flush())
    experiments._results = None
    paired = client.http.get("/v1/experiments/rows/results").json()["windows"]["15m"]["shadow"]["paired"]
    losses = []
    for version in (2, 1):
        scorer = Scorer.open(store.path("ctr", version))
        losses.append(quality.row_losses(labels[:200], scorer.logits(scorer.encoder.encode_rows(rows[:200]))))
        scorer.close()
    assert paired["rows"] == 200
    assert paired["logloss_diff"] == pytest.approx(
        np.mean(losses[0] - losses[1]), abs=gamma(1000)
    )  # a loss is off by no more than its logit, a sum of about a thousand terms


def test_encoded_ids_fit_one_variant_only(served):
    client, dataset, _ = served
    encoded = dataset.encoder().encode_rows(dataset.raw_test(1)[0])
    inputs = [
        {
            "name": "sparse_ids",
            "datatype": "INT64",
            "shape": list(encoded.ids.shape),
            "data": encoded.ids.ravel(),
        }
    ]
    names = [dataset.schema.names[position] for position in dataset.schema.multi]
    for name, bag in zip(names, encoded.bags, strict=True):
        for part, values in (("values", bag.values), ("offsets", bag.offsets)):
            shape = [len(values)]
            inputs.append({"name": f"{name}.{part}", "datatype": "INT64", "shape": shape, "data": values})
    body = {"inputs": [{**entry, "data": entry["data"].tolist()} for entry in inputs]}
    refused = client.http.post("/v2/models/ctr/infer", json=body)
    assert refused.status_code == 400
    assert "number their rows differently" in refused.text
    named = client.http.post("/v2/models/ctr/versions/1/infer", json=body)
    assert named.status_code == 200, named.text
