"""The services to compare with, one route each, as FastAPI's own documentation writes them.

`empty` reads the body and answers a constant, `empty_parsed` lets FastAPI parse it, `torch` and `onnxruntime` score the
float model from row ids.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from pydantic import BaseModel

app = FastAPI()


class Asked(BaseModel):
    """Row ids, one list per row."""

    rows: list[list[int]]


class Answered(BaseModel):
    """One probability per row."""

    scores: list[float]


def _torch_scorer() -> Callable[[list[list[int]]], list[float]]:
    import torch

    from benchmarks.serving import deepfm

    model = deepfm.load(os.environ["BENCH_TORCH"])

    def score(rows: list[list[int]]) -> list[float]:
        with torch.inference_mode():
            return model(torch.tensor(rows)).tolist()

    return score


def _onnxruntime_scorer() -> Callable[[list[list[int]]], list[float]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        os.environ["BENCH_ONNX"], options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda rows: session.run(None, {name: np.array(rows, np.int64)})[0].tolist()


match os.environ["BENCH_ROUTE"]:
    case "empty":

        @app.post("/score")
        async def empty(request: Request) -> dict[str, Any]:
            await request.body()
            return {"scores": [0.5]}

    case "empty_parsed":

        @app.post("/score")
        async def empty_parsed(body: dict[str, Any]) -> dict[str, Any]:
            return {"scores": [0.5]}

    case route:
        scorer = {"torch": _torch_scorer, "onnxruntime": _onnxruntime_scorer}[route]()

        @app.post("/score")
        async def score(asked: Asked) -> Answered:
            return Answered(scores=scorer(asked.rows))
