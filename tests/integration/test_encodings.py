"""The same rows in every encoding, executed as one batch of the same size, give bit-identical float32 scores."""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import tritonclient.http as triton
from arrow_streams import stream, table_of
from artifacts import SCHEMA, build_artifact, raw_rows
from live_service import LiveService, live_service
from rounding import gamma
from triton_http import triton_client

ROWS = 200
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("encodings")
    build_artifact(folder / "models", label="stable")
    with live_service(folder / "models", folder) as running:
        yield running


def rows_of_one_slate(count: int) -> list[dict[str, object]]:
    """Return rows that share user, price and site."""
    shared = {name: raw_rows(1)[0][name] for name in ("user", "price", "site")}
    return [{**row, **shared} for row in raw_rows(count, seed=5)]


@pytest.mark.promise(19)
def test_every_encoding_gives_the_same_bits(service: LiveService) -> None:
    rows = rows_of_one_slate(ROWS)
    columns = {field.name: [row[field.name] for row in rows] for field in SCHEMA.fields}
    context = {name: rows[0][name] for name in ("user", "price", "site")}
    candidates = [{name: row[name] for name in ("ad", "tags")} for row in rows]
    forms = ({"instances": rows}, {"columns": columns}, {"context": context, "candidates": candidates})
    answers = [service.predict(**form, include=["logits"]) for form in forms]
    scores = {name: np.array(answers[0][name], np.float32) for name in ("scores", "logits")}
    assert len(scores["scores"]) == ROWS
    for answer in answers[1:]:
        np.testing.assert_array_equal(np.array(answer["scores"], np.float32), scores["scores"])
        assert answer["oov"] == answers[0]["oov"]

    table = table_of(rows)
    compact = table.set_column(0, "user", table["user"].dictionary_encode())
    for body in (stream(table, include="logits"), stream(compact, 33, include="logits")):
        response = service.http.post("/v1/predict", content=body, headers={"content-type": ARROW})
        assert response.status_code == 200, response.text
        answer = response.json()
        for name in ("scores", "logits"):
            np.testing.assert_array_equal(np.array(answer[name], np.float32), scores[name])
        assert answer["oov"] == answers[0]["oov"]
        response = service.http.post(
            "/v1/predict", content=body, headers={"content-type": ARROW, "accept": ARROW}
        )
        written = pa.ipc.open_stream(response.content).read_all()
        np.testing.assert_array_equal(written["scores"].to_numpy(), scores["scores"])
        rest = json.loads(written.schema.metadata[b"slimctr.response"])
        assert rest.keys() == answer.keys() - {"scores"}
        assert all(rest[name] == answer[name] for name in rest.keys() - {"request_id"})

    batch = service.pool.version("ctr", 1).ready().scorer.encoder.encode_rows(rows)
    tensors = {
        "sparse_ids": batch.ids.astype(np.int64),
        "tags.values": batch.bags[0].values.astype(np.int64),
        "tags.offsets": batch.bags[0].offsets.astype(np.int64),
    }
    with triton_client(service.host, service.port) as client:
        for binary in (True, False):
            inputs = []
            for name, values in tensors.items():
                inputs.append(triton.InferInput(name, list(values.shape), "INT64"))
                inputs[-1].set_data_from_numpy(values, binary_data=binary)
            outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("pctr", "logit")]
            result = client.infer("ctr", inputs, outputs=outputs)
            np.testing.assert_array_equal(result.as_numpy("pctr")[:, 0], scores["scores"])
            np.testing.assert_array_equal(result.as_numpy("logit")[:, 0], scores["logits"])


def test_a_slate_of_200_and_a_batch_of_1000_rows(service: LiveService) -> None:
    slate = service.predict(
        context={"user": "u3", "site": "s"}, candidates=[{"ad": f"a{i}"} for i in range(200)], unit_id="u3"
    )
    assert len(slate["scores"]) == 200
    rows = raw_rows(1000, seed=9)
    together = np.array(service.predict(instances=rows)["scores"])
    assert together.shape == (1000,)
    alone = [service.predict(instances=[rows[i]])["scores"][0] for i in (0, 499, 999)]
    np.testing.assert_allclose(together[[0, 499, 999]], alone, rtol=0, atol=gamma(64))  # slope 1/4, 60 terms


def test_a_batch_larger_than_one_execution_keeps_its_order(service: LiveService) -> None:
    rows = raw_rows(5000, seed=3)
    scores = np.array(service.predict(instances=rows)["scores"])
    backwards = np.array(service.predict(instances=rows[::-1])["scores"])
    np.testing.assert_allclose(scores, backwards[::-1], rtol=0, atol=gamma(64))
    assert len(np.unique(scores)) > 1000
