"""The artifact of format version 1 loads and scores as on the day it was made (see make_artifact.py)."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from rounding import assert_same_logits, graph_logits

from slimctr.scoring import Scorer

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def scorer():
    return Scorer.open(HERE / "v1")


@pytest.fixture(scope="module")
def expected():
    return json.loads((HERE / "v1.json").read_text())


def test_it_is_small_and_has_every_codec(scorer):
    assert sum(path.stat().st_size for path in [*(HERE / "v1").iterdir(), HERE / "v1.json"]) < 50_000
    kinds = {(t.codec, t.layout, t.scale) for t in scorer.manifest.tables}
    assert kinds == {
        ("float32", None, None),
        ("float16", None, None),
        ("int8_row", None, None),
        ("packed", "stream", "row"),
        ("packed", "planes", "row"),
        ("packed", "planes", "column"),
    }


def test_golden_rows(scorer):
    exact, error = graph_logits(
        (HERE / "v1" / "network.onnx").read_bytes(), scorer.lookup(scorer.golden.batch)
    )
    assert_same_logits(scorer.golden.logits, exact, error, "stored logits")
    assert scorer.check_golden() <= 2 * error.max()


def test_values_get_the_same_rows(scorer, expected):
    batch = scorer.encoder.encode_rows(expected["rows"])
    assert batch.ids.tolist() == expected["ids"]
    assert [batch.bags[0].values.tolist(), batch.bags[0].offsets.tolist()] == expected["tags"]


def test_rows_get_the_same_stored_bits(scorer, expected):
    stored = scorer.lookup(scorer.encoder.encode_rows(expected["rows"]))
    assert hashlib.sha256(stored.tobytes()).hexdigest() == expected["stored_sha256"]


def test_rows_get_the_same_logits(scorer, expected):
    batch = scorer.encoder.encode_rows(expected["rows"])
    exact, error = graph_logits((HERE / "v1" / "network.onnx").read_bytes(), scorer.lookup(batch))
    assert_same_logits(scorer.logits(batch), exact, error)
    assert_same_logits(np.array(expected["logits"]), exact, error, "logits of the day it was made")
