"""The public tritonclient HTTP clients, unmodified, against the service."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from artifacts import build_artifact
from live_service import LiveService, live_service
from triton_http import triton_client
from tritonclient.utils import InferenceServerException

IDS = np.array([[1, 2, 3, 4], [5, 6, -1, 8], [0, 900, 2, 1]], np.int64)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("triton")
    build_artifact(folder / "models", label="stable")
    build_artifact(folder / "models", label="canary", compressed=False)
    with live_service(folder / "models", folder, model_control="explicit") as running:
        yield running


@pytest.fixture
def client(service: LiveService) -> Iterator[triton.InferenceServerClient]:
    with triton_client(service.host, service.port) as made:
        yield made


def inputs(ids: np.ndarray) -> list[triton.InferInput]:
    """Return the three tensors of the test model, one tag per row."""
    rows = len(ids)
    tensors = {
        "sparse_ids": ids,
        "tags.values": np.ones(rows, np.int64),
        "tags.offsets": np.arange(rows + 1, dtype=np.int64),
    }
    made = []
    for name, values in tensors.items():
        made.append(triton.InferInput(name, list(values.shape), "INT64"))
        made[-1].set_data_from_numpy(values)
    return made


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ctr")
    assert client.is_model_ready("ctr", "2")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "statistics",
    ]
    assert client.get_model_metadata("ctr")["versions"] == ["1", "2"]
    assert client.get_model_metadata("ctr", "1")["inputs"][0]["name"] == "sparse_ids"
    assert client.get_model_config("ctr")["platform"] == "slimctr_artifact"


def test_infer_with_id_version_timeout_and_compression(client: triton.InferenceServerClient) -> None:
    plain = client.infer("ctr", inputs(IDS), request_id="mine")
    assert plain.get_response()["id"] == plain.get_response()["parameters"]["request_id"] == "mine"
    assert plain.get_response()["parameters"]["oov_ids"] >= 1
    assert plain.as_numpy("pctr").shape == (3, 1)
    for algorithm in ("gzip", "deflate"):
        packed = client.infer(
            "ctr",
            inputs(IDS),
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        np.testing.assert_array_equal(packed.as_numpy("pctr"), plain.as_numpy("pctr"))
    other = client.infer("ctr", inputs(IDS), model_version="2", timeout=900_000, priority=1)
    assert other.get_response()["model_version"] == "2"
    labeled = client.infer("ctr", inputs(IDS), parameters={"label": "canary", "unit_id": "u1"})
    np.testing.assert_array_equal(labeled.as_numpy("logit"), other.as_numpy("logit"))


def test_an_empty_batch_gives_an_empty_answer(client: triton.InferenceServerClient) -> None:
    assert client.infer("ctr", inputs(IDS[:0])).as_numpy("pctr").shape == (0, 1)


def test_one_requested_output(client: triton.InferenceServerClient) -> None:
    result = client.infer(
        "ctr", inputs(IDS), outputs=[triton.InferRequestedOutput("logit", binary_data=False)]
    )
    assert result.as_numpy("pctr") is None
    assert result.as_numpy("logit").shape == (3, 1)


def test_asynchronous_calls_of_the_threaded_client(service: LiveService) -> None:
    with triton_client(service.host, service.port, concurrency=4) as client:
        pending = [client.async_infer("ctr", inputs(IDS)) for _ in range(8)]
        for request in pending:
            assert request.get_result().as_numpy("pctr").shape == (3, 1)


def test_statistics_count_rows_and_executions(client: triton.InferenceServerClient) -> None:
    def stats() -> dict[str, Any]:
        found: dict[str, Any] = client.get_inference_statistics("ctr", "1")["model_stats"][0]
        return found

    before = stats()
    client.infer("ctr", inputs(IDS))
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert {entry["version"] for entry in client.get_inference_statistics()["model_stats"]} == {"1", "2"}
    assert after["memory_usage"][0]["byte_size"] > 0


def test_errors_carry_status_and_text(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="is not served"):
        client.infer("nothing", inputs(IDS))
    with pytest.raises(InferenceServerException, match="sparse_ids' is missing"):
        client.infer("ctr", inputs(IDS)[1:])
    with pytest.raises(InferenceServerException, match="not offered"):
        client.infer("ctr", inputs(IDS), sequence_id=3)
    for call in (client.get_trace_settings, client.get_log_settings, client.get_system_shared_memory_status):
        with pytest.raises(InferenceServerException, match="not offered"):
            call()


def test_the_repository(client: triton.InferenceServerClient) -> None:
    assert {(entry["version"], entry["state"]) for entry in client.get_model_repository_index()} == {
        ("1", "READY"),
        ("2", "READY"),
    }
    client.unload_model("ctr")
    assert not client.is_model_ready("ctr")
    assert not client.is_server_ready()
    assert {entry["state"] for entry in client.get_model_repository_index()} == {"UNAVAILABLE"}
    client.load_model("ctr")
    assert client.is_model_ready("ctr")
    with pytest.raises(InferenceServerException, match="refused"):
        client.load_model("ctr", config='{"max_batch_size": 1}')
    with pytest.raises(InferenceServerException):
        client.load_model("nothing")


def test_the_asyncio_client(service: LiveService) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(f"{service.host}:{service.port}") as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("ctr")
            assert (await client.get_server_metadata())["name"] == "slimctr"
            assert (await client.get_model_metadata("ctr"))["name"] == "ctr"
            assert (await client.get_model_config("ctr"))["name"] == "ctr"
            assert len(await client.get_model_repository_index()) == 2
            assert (await client.get_inference_statistics("ctr"))["model_stats"]
            results = await asyncio.gather(*(client.infer("ctr", inputs(IDS)) for _ in range(8)))
            for result in results:
                assert result.as_numpy("pctr").shape == (3, 1)
            packed = await client.infer("ctr", inputs(IDS), request_compression_algorithm="gzip")
            np.testing.assert_array_equal(packed.as_numpy("logit"), results[0].as_numpy("logit"))
            json_outputs = [triton_aio.InferRequestedOutput("pctr", binary_data=False)]
            plain = await client.infer("ctr", inputs(IDS), outputs=json_outputs)
            np.testing.assert_array_equal(plain.as_numpy("pctr"), results[0].as_numpy("pctr"))
            await client.unload_model("ctr")
            await client.load_model("ctr")
            with pytest.raises(InferenceServerException, match="is not served"):
                await client.infer("nothing", inputs(IDS))

    asyncio.run(run())
