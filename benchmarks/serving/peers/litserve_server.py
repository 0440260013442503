"""LitServe with its documented batching; runs in a virtual environment of its own (`litserve`, `torch`)."""

import os

import litserve
import numpy as np

from benchmarks.serving import deepfm


class ScoreAPI(litserve.LitAPI):
    """Row ids in, probabilities out; requests that arrive within two milliseconds share a batch."""

    def setup(self, device: str) -> None:
        self.model = deepfm.load(os.environ["BENCH_TORCH"])

    def decode_request(self, request: dict) -> np.ndarray:
        return np.asarray(request["rows"], np.int64)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        self.sizes = [len(rows) for rows in inputs]
        return np.concatenate(inputs)

    def predict(self, ids: np.ndarray) -> np.ndarray:
        return deepfm.score(self.model, ids)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return np.split(output, np.cumsum(self.sizes)[:-1])

    def encode_response(self, output: np.ndarray) -> dict:
        return {"scores": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        ScoreAPI(max_batch_size=32, batch_timeout=0.002), accelerator="cpu", workers_per_device=1
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
