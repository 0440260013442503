import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.engine.lookups import embedding_lookup, torch_bags
from benchmarks.engine.report import page
from benchmarks.engine.rounds import Turns, median_ratio
from benchmarks.large_models import model_name, publish
from benchmarks.random_models import field_rows, low_rank_model, uniform_ids, whole_model
from model_store.store import ModelStore

pytestmark = pytest.mark.slow  # runs the benchmark

IDS = 3000


def test_contestants_take_turns_and_are_timed_per_call():
    order = []
    calls = {name: lambda turn, name=name: order.append((name, turn)) for name in ("one", "other")}

    seconds = Turns(rounds=3, slice_seconds=0).take(calls)

    assert [name for name, _ in order] == ["one", "other"] * 4  # a first round is not counted
    assert {name: len(spent) for name, spent in seconds.items()} == {"one": 3, "other": 3}
    assert all(spent > 0 for spent in seconds["one"])


def test_a_ratio_is_taken_within_rounds():
    assert median_ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == 3.0


@pytest.mark.parametrize("bits", [8, 4])
def test_torch_bags_read_rows_side_by_side(bits):
    rows = (5, 7)
    calls, bytes_per_row = torch_bags(rows, bits)
    ids = np.array([[4, 6], [0, 0], [4, 0]], np.int32)

    ((look_up, *arguments),) = calls([ids])
    read = look_up(*arguments)

    assert bytes_per_row == {8: 24, 4: 12}[bits]
    assert read.shape == (3, 32)
    assert torch.equal(read[0, :16], read[2, :16])
    assert torch.equal(read[1, 16:], read[2, 16:])
    assert not torch.equal(read[0, :16], read[1, :16])


def test_embedding_lookup_reads_the_columns_of_the_embeddings(tmp_path):
    versions = publish(tmp_path, IDS, ("original",))
    lookup, size = embedding_lookup(ModelStore(tmp_path), model_name(IDS), versions["original"])
    rows = field_rows(IDS)
    ids = uniform_ids(rows, 9, seed=0)

    model = whole_model(low_rank_model(rows, seed=0))
    with torch.inference_mode():
        expected = model.lookup(torch.from_numpy(ids)).numpy()[:, : model.spec.code_width]
    np.testing.assert_array_equal(lookup(ids, ()), expected)
    assert size == 4 * 16 * IDS


def test_the_command_measures_and_writes_its_page(tmp_path):
    files = tmp_path / "engine.jsonl", tmp_path / "engine.md"
    command = f"{sys.executable} -m benchmarks.engine --ids {IDS} --variants original pca_8bit --rounds 1"
    places = ["--store", str(tmp_path / "store"), "--results", str(files[0]), "--report", str(files[1])]
    subprocess.run([*command.split(), "--slice-seconds", "0", *places], check=True, env=dict(os.environ))

    records = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert files[1].read_text() == page(records)
    scoring = [record for record in records if record["kind"] == "scoring"]
    engines = {"original", "pca_8bit"}
    in_onnx_runtime = {f"{variant}, ONNX Runtime" for variant in engines}
    assert {record["contestant"] for record in scoring} == {"torch", *engines, *in_onnx_runtime}
    assert {record["ratio"] for record in scoring if record["contestant"] == "torch"} == {1.0}
    assert {record["draw"] for record in records[1:]} == {"zipf", "uniform"}
    assert all(record["us_per_row"] > 0 for record in records[1:])
