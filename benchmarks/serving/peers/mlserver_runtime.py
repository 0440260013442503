"""The float model as a runtime of MLServer; runs in a virtual environment of its own (`mlserver`, `torch`)."""

import os

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving import deepfm


class ScoreModel(MLModel):
    """Open Inference Protocol in and out."""

    async def load(self) -> bool:
        self.model = deepfm.load(os.environ["BENCH_TORCH"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        scores = deepfm.score(self.model, NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores.reshape(-1, 1))]
        )
