"""The scorer: lookup against naive loops, one row or many, several threads, byte figures, closing."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from artifacts import SCHEMA, build_artifact, raw_rows
from rounding import assert_same_logits, graph_logits

from slimctr.errors import EngineError, UnknownField
from slimctr.features import EncodedBatch
from slimctr.native.network import runs_here
from slimctr.scoring import Scorer, encoder_digest
from slimctr.scoring.resident import measure_resident


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    return {name: build_artifact(root, name, compressed=name == "small") for name in ("small", "float")}


@pytest.fixture(scope="module", params=["small", "float"])
def scorer(request, versions):
    return Scorer.open(versions[request.param])


def batch_of(scorer, rows=200) -> EncodedBatch:
    return scorer.encoder.encode_rows(raw_rows(rows, seed=5))


def exact_logits_of(scorer, versions, batch):
    """The logits of a batch in float64 and how far float32 ones may be."""
    return graph_logits((versions[scorer.manifest.model] / "network.onnx").read_bytes(), scorer.lookup(batch))


def test_golden_rows(scorer, versions):
    exact, error = exact_logits_of(scorer, versions, scorer.golden.batch)
    assert_same_logits(scorer.golden.logits, exact, error, "stored logits")
    assert_same_logits(scorer.logits(scorer.golden.batch), exact, error)
    assert 0 <= scorer.check_golden() <= 2 * error.max()


def test_logits_are_network_of_lookup(scorer):
    batch = batch_of(scorer)
    stored = scorer.lookup(batch)
    assert stored.shape == (len(batch), scorer.manifest.network.width)
    logits = scorer.logits(batch)
    assert logits.dtype == np.float32
    assert logits.shape == (len(batch),)
    np.testing.assert_array_equal(logits, scorer.run_network(stored))


def test_rows_score_the_same_alone_and_together(scorer, versions):
    batch = batch_of(scorer)
    together = scorer.logits(batch)
    alone = np.concatenate([scorer.logits(batch.slice(row, row + 1)) for row in range(len(batch))])
    if scorer.runtime == "native":  # what the kernel promises; ONNX Runtime does not
        np.testing.assert_array_equal(alone, together)
    exact, error = exact_logits_of(scorer, versions, batch)
    assert_same_logits(alone, exact, error, "alone")
    assert_same_logits(together, exact, error, "together")
    np.testing.assert_array_equal(scorer.lookup(batch.slice(3, 4)), scorer.lookup(batch)[3:4])


def test_an_empty_batch(scorer):
    empty = batch_of(scorer).slice(0, 0)
    assert scorer.logits(empty).shape == (0,)
    assert scorer.lookup(empty).shape == (0, scorer.manifest.network.width)


def test_the_compressed_version_is_close_to_the_float_one(versions):
    small, original = Scorer.open(versions["small"]), Scorer.open(versions["float"])
    batch = batch_of(small)
    assert np.corrcoef(small.logits(batch), original.logits(batch))[0, 1] > 0.95


def test_threads_score_together(scorer):
    batches = [batch_of(scorer).slice(start, start + 1 + start % 40) for start in range(0, 150, 3)]
    expected = [scorer.logits(batch) for batch in batches]
    count = 4
    start = threading.Barrier(count)

    def work(_):
        start.wait()
        return [[scorer.logits(batch) for batch in batches] for _ in range(5)]

    with ThreadPoolExecutor(count) as pool:
        for rounds in pool.map(work, range(count)):
            for logits in rounds:
                for got, want in zip(logits, expected, strict=True):
                    np.testing.assert_array_equal(got, want)


def test_ids_outside_a_table_score_as_its_first_row(scorer):
    batch = batch_of(scorer).slice(0, 3)
    outside = EncodedBatch.uncounted(np.full_like(batch.ids, 2**31 - 1), batch.bags)
    first = EncodedBatch.uncounted(np.zeros_like(batch.ids), batch.bags)
    np.testing.assert_array_equal(scorer.logits(outside), scorer.logits(first))


def test_bytes(versions):
    small, original = (Scorer.open(versions[name]) for name in ("small", "float"))
    for scorer, name in ((small, "small"), (original, "float")):
        files = {path.name: path.stat().st_size for path in versions[name].iterdir()}
        files.pop("manifest.json")
        assert scorer.bytes["artifact"] == sum(files.values())
        assert scorer.bytes["mapped"] == files["tables.safetensors"] + files["vocabulary.safetensors"]
    assert small.bytes["original_payload"] == original.bytes["payload"]
    assert original.ratios == {"payload": 1.0, "artifact": 1.0}
    assert small.ratios["payload"] == original.bytes["payload"] / small.bytes["payload"] > 2


def test_bytes_without_a_known_original(tmp_path, versions):
    sizes = Scorer.open(versions["small"]).manifest.bytes
    unknown = sizes.model_copy(update={"original_payload": None, "original_artifact": None})
    scorer = Scorer.open(build_artifact(tmp_path, bytes=unknown))
    assert set(scorer.bytes) == {"payload", "artifact", "mapped"}
    assert scorer.ratios == {}


def test_closing(versions):
    scorer = Scorer.open(versions["small"])
    batch = batch_of(scorer)
    scorer.warm_up()
    scorer.close()
    scorer.close()
    for call in (lambda: scorer.logits(batch), lambda: scorer.lookup(batch), scorer.check_golden):
        with pytest.raises(EngineError, match="small/1 is closed"):
            call()


def test_closing_unmaps_the_tables(versions):
    scorer = Scorer.open(versions["small"])
    tables = str(versions["small"] / "tables.safetensors")
    with open("/proc/self/maps") as maps:
        before = maps.read().count(tables)
    scorer.close()
    with open("/proc/self/maps") as maps:
        assert maps.read().count(tables) == before - 1


def test_unknown_fields_follow_the_setting(versions):
    row = {"ad": "a1", "color": "red"}
    with pytest.raises(UnknownField):
        Scorer.open(versions["small"]).encoder.encode_rows([row])
    ignoring = Scorer.open(versions["small"], unknown_fields="ignore")
    assert len(ignoring.logits(ignoring.encoder.encode_rows([row]))) == 1


def test_a_batch_of_another_schema_is_refused(scorer):
    with pytest.raises(ValueError, match="int32 ids"):
        scorer.logits(EncodedBatch.uncounted(np.zeros((2, 1), np.int32)))


def test_encoder_digest_changes_with_schema_and_vocabulary(tmp_path):
    vocabulary = tmp_path / "vocabulary.safetensors"
    vocabulary.write_bytes(b"one")
    base, encoder = encoder_digest(SCHEMA, vocabulary)
    assert encoder_digest(SCHEMA.model_copy(), vocabulary) == (base, encoder)
    fewer = SCHEMA.model_copy(update={"fields": SCHEMA.fields[:2]})
    assert encoder_digest(fewer, vocabulary)[0] == base
    assert encoder_digest(fewer, vocabulary)[1] != encoder
    vocabulary.write_bytes(b"two")
    assert encoder_digest(SCHEMA, vocabulary)[0] != base
    assert encoder_digest(SCHEMA, vocabulary)[1] != encoder


FORBIDDEN = (
    "torch",
    "pyarrow",
    "onnx",
    "onnxscript",
    "pandas",
    "scipy",
    "fastapi",
    "slimctr.networks",
    "slimctr.clicklogs",
)


def test_more_threads_than_one_use_onnx_runtime_and_score_the_same(versions):
    one, two = (Scorer.open(versions["small"], threads) for threads in (1, 2))
    assert (one.runtime, two.runtime) == ("native" if runs_here() else "onnxruntime", "onnxruntime")
    assert one.check_golden() <= one.manifest.parity_atol
    assert two.check_golden() <= two.manifest.parity_atol
    exact, error = exact_logits_of(one, versions, batch_of(one))
    assert_same_logits(one.logits(batch_of(one)), exact, error)
    assert_same_logits(two.logits(batch_of(two)), exact, error)


def test_a_scoring_process_loads_no_training_library(versions):
    script = (
        "import json, sys\n"
        "from slimctr.scoring import Scorer\n"
        "scorer = Scorer.open(sys.argv[1])\n"
        "scorer.check_golden()\n"
        "scorer.logits(scorer.encoder.encode_rows([{'ad': 'a1'}]))\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(versions["small"])], capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert ("onnxruntime" in loaded) is not runs_here()
    assert [name for name in FORBIDDEN if name in loaded] == []


def test_resident_bytes(versions):
    measured = measure_resident(versions["small"])
    assert measured["requests"] == 1000
    assert (measured["model"], measured["version"]) == ("small", "1")
    assert measured["resident_bytes"] == measured["after"]["pss_bytes"] - measured["before"]["pss_bytes"] > 0
    assert (
        measured["after"]["rss_bytes"]
        >= measured["after"]["pss_bytes"]
        > measured["after"]["private_dirty_bytes"]
        > 0
    )


def test_resident_bytes_of_no_version(tmp_path):
    with pytest.raises(EngineError, match="could not be measured"):
        measure_resident(tmp_path)


def test_the_network_runtime_starts_no_thread_and_writes_nothing(tmp_path):
    program = "import os, slimctr.scoring; print(len(os.listdir('/proc/self/task')))"
    environment = {**os.environ, "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1", "a parent of workers may have no other thread when it forks them"
    assert list(tmp_path.iterdir()) == []
