"""Rows per second of whole models: torch's original, the engine on every variant, and some with ONNX Runtime in it."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from benchmarks.engine.machine import copy, gemm
from benchmarks.engine.rounds import Call, Turns, median_ratio
from benchmarks.large_models import model_name
from benchmarks.random_models import field_rows, low_rank_model, uniform_ids, whole_model, zipf_ids
from model_store.artifact import NETWORK_FILE
from model_store.store import ModelStore
from slimctr.features import EncodedBatch
from slimctr.networks import CtrModel
from slimctr.scoring import Scorer
from slimctr.scoring.onnx_session import OnnxSession

BATCHES = (1, 8, 32, 128, 512, 2048)
DRAWS = {"zipf": zipf_ids, "uniform": uniform_ids}
PIECES = 512
MOST_ROWS = 65_536
TORCH = "torch"
IN_ONNX_RUNTIME = ("original", "pca_8bit", "pca_8bit_narrow")


class Contestant(NamedTuple):
    """A variant in the engine; `run` maps a stored matrix to logits."""

    scorer: Scorer
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    flops: float


def time_scoring(
    store: ModelStore, ids: int, versions: Mapping[str, int], turns: Turns, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield a record for every draw of ids, batch and contestant."""
    name, rows = model_name(ids), field_rows(ids)
    original = whole_model(low_rank_model(rows, seed)).eval()
    contestants: dict[str, Contestant] = {}
    for variant, version in versions.items():
        path = store.path(name, version)
        scorer, flops = Scorer.open(path), network_flops(path)
        contestants[variant] = Contestant(scorer, scorer.run_network, flops)
        if variant in IN_ONNX_RUNTIME:
            session = OnnxSession((path / NETWORK_FILE).read_bytes(), scorer.manifest.network.width)
            contestants[f"{variant}, ONNX Runtime"] = Contestant(scorer, session.run, flops)
    for draw, batch, pieces in cases(rows, seed):
        calls = _calls(original, contestants, pieces)
        peak, peak_flops = gemm()
        move, moved = copy()
        with torch.inference_mode():
            seconds = turns.take({**calls, "gemm": peak, "copy": move})
        flops_per_second = peak_flops / min(seconds["gemm"])
        bytes_per_second = moved / min(seconds["copy"])
        about = {"kind": "scoring", "ids": ids, "draw": draw, "batch": batch}
        about |= {
            "peak_gflops": round(flops_per_second / 1e9, 1),
            "copy_gbytes": round(bytes_per_second / 1e9, 1),
        }
        yield {**about, "contestant": TORCH, **_speed(seconds[TORCH], seconds[TORCH], batch)}
        for variant, (scorer, _, flops) in contestants.items():
            network = statistics.median(seconds[f"{variant} network"]) / batch
            lookup = statistics.median(seconds[f"{variant} lookup"]) / batch
            yield {
                **about,
                "contestant": variant,
                **_speed(seconds[variant], seconds[TORCH], batch),
                "network_us": round(1e6 * network, 3),
                "lookup_us": round(1e6 * lookup, 3),
                "network_share_of_peak": round(flops / network / flops_per_second, 3),
                "lookup_share_of_copy": round(row_bytes(scorer) / lookup / bytes_per_second, 3),
            }
    for contestant in contestants.values():
        contestant.scorer.close()


def cases(rows: tuple[int, ...], seed: int) -> Iterator[tuple[str, int, list[NDArray[np.int32]]]]:
    """Yield (draw, batch rows, id batches): up to 512 batches, so that ids are not in the caches by repetition."""
    for draw, function in DRAWS.items():
        ids = function(rows, MOST_ROWS, seed + 7)
        for batch in BATCHES:
            count = min(PIECES, MOST_ROWS // batch)
            yield draw, batch, [ids[place * batch : (place + 1) * batch] for place in range(count)]


def network_flops(version: Path) -> float:
    """Floating point operations of the matrix products for one row."""
    graph = onnx.load(version / NETWORK_FILE).graph
    return 2.0 * sum(np.prod(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 2)


def row_bytes(scorer: Scorer) -> float:
    """Bytes that the lookup of one instance reads and writes: ids, mean records, the row of the stored matrix."""
    tables = scorer.manifest.tables
    payload = scorer.manifest.bytes.payload_by_role or {}
    rows = sum(table.rows for table in tables if table.role == "embedding")
    fields = len(scorer.encoder.schema.names)
    return fields * (4 + sum(payload.values()) / rows) + 4 * scorer.manifest.network.width


def _calls(
    model: CtrModel, contestants: Mapping[str, Contestant], pieces: list[NDArray[np.int32]]
) -> dict[str, Call]:
    tensors = [torch.from_numpy(piece) for piece in pieces]
    batches = [EncodedBatch.uncounted(piece) for piece in pieces]
    count = len(pieces)
    calls: dict[str, Call] = {TORCH: lambda turn: model(tensors[turn % count])}
    for variant, (scorer, run, _) in contestants.items():
        stored = scorer.lookup(batches[0])
        calls[variant] = lambda turn, scorer=scorer, run=run: run(scorer.lookup(batches[turn % count]))
        calls[f"{variant} lookup"] = lambda turn, scorer=scorer: scorer.lookup(batches[turn % count])
        calls[f"{variant} network"] = lambda _, run=run, stored=stored: run(stored)
    return calls


def _speed(seconds: list[float], torch_seconds: list[float], batch: int) -> dict[str, float]:
    return {
        "us_per_row": round(1e6 * statistics.median(seconds) / batch, 3),
        "ratio": round(median_ratio(torch_seconds, seconds), 3),
    }
