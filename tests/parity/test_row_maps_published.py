"""Versions of fewer rows: the vocabulary carries the new rows, dropped and unlisted values read what they should."""

import numpy as np
import pytest
from rounding import assert_same_logits, auc_error, served_logits

from model_store.store import ModelStore
from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.compression import compress
from slimctr.errors import CompressionError
from slimctr.export import publish_run
from slimctr.features.renumbering import maps_between, renumbered
from slimctr.networks import RowMap
from slimctr.scoring import Scorer
from slimctr.scoring.evaluation import evaluate_rows, stored_batch
from slimctr.training import TrainConfig, train

pytestmark = pytest.mark.slow  # trains


@pytest.mark.parametrize("method", ["mpe", "frequency_rule"])
@pytest.mark.parametrize("zero_rows", ["keyed", "zero", "oov"])
def test_scores_vocabulary_and_bytes(run, dataset, tmp_path, zero_rows, method):
    settings = {"start": "trained", "epochs": 1, "zero_rows": zero_rows}
    settings |= {"kept_share": 0.3} if method == "frequency_rule" else {"precision_cost": 0.01, "groups": 32}
    smaller = compress(run, method, settings, None, tmp_path / "run")
    store = ModelStore(tmp_path / "store")
    original, version = publish_run(run, store, "ctr"), publish_run(smaller, store, "ctr")
    scorer = Scorer.open(store.path("ctr", version.version))
    assert version.manifest.base_vocabulary == original.manifest.base_vocabulary
    assert version.manifest.encoder != original.manifest.encoder
    # golden rows differ in the bytes of their values
    assert version.manifest.bytes.original_artifact == pytest.approx(
        original.manifest.artifact_bytes, rel=0.01
    )
    maps = [m.stored.numpy() if isinstance(m, RowMap) else None for m in smaller.model.row_maps]
    found = maps_between(dataset.vocabulary(), scorer.encoder.vocabulary)
    for made, read in zip(maps, found, strict=True):
        assert np.array_equal(made, read)

    base, test = dataset.vocabulary(), dataset.load("test")
    exact, error = served_logits(smaller.model, test.batch)
    assert_same_logits(scorer.logits(stored_batch(scorer, base, test.batch)), exact, error)
    figures = evaluate_rows(scorer, dataset.stream("test", 500), base)
    assert figures["auc"] == pytest.approx(
        smaller.metrics["test"]["auc"], abs=auc_error(test.labels, exact, 2 * error)
    )
    raw, _ = dataset.raw_test(300)
    assert_same_logits(
        scorer.logits(scorer.encoder.encode_rows(raw)), exact[: len(raw)], error[: len(raw)], "raw rows"
    )

    sizes = version.manifest.bytes.artifact_by_component
    whole = original.manifest.bytes.artifact_by_component
    dropped = sum(int((stored == len(stored)).sum()) for stored in maps)
    assert dropped >= 0
    if zero_rows == "keyed":
        assert sizes["vocabulary"] == whole["vocabulary"]
    else:
        assert sizes["vocabulary"] < 0.8 * whole["vocabulary"]
    assert sizes["embedding"] < whole["embedding"] / 8


@pytest.mark.parametrize(("zero_rows", "unlike"), [("keyed", True), ("zero", False), ("oov", False)])
def test_dropped_and_unlisted_values(run, dataset, tmp_path, zero_rows, unlike):
    """Keyed: a dropped value reads zeros and an unlisted one the OOV row. Otherwise the two are one."""
    settings = {"start": "trained", "epochs": 1, "zero_rows": zero_rows, "kept_share": 0.3}
    smaller = compress(run, "frequency_rule", settings, None, tmp_path / "run")
    store = ModelStore(tmp_path / "store")
    scorer = Scorer.open(store.path("ctr", publish_run(smaller, store, "ctr").version))
    stored = maps_between(dataset.vocabulary(), scorer.encoder.vocabulary)[0]
    rows, _ = dataset.raw_test(500)
    ids = dataset.encoder().encode_rows(rows).ids[:, 0]
    row_map = smaller.model.row_maps[0].stored.numpy()
    gone = next(row for row, i in zip(rows, ids, strict=True) if i and row_map[i] in (0, row_map.max()))
    assert gone is not None
    dim = smaller.spec.dim
    unlisted = {**gone, "user": "nobody has this name"}
    read = scorer.lookup(scorer.encoder.encode_rows([gone, unlisted]))[:, :dim]
    assert stored.shape == row_map.shape
    assert bool(read[1].any()) == (zero_rows != "zero")
    if zero_rows == "keyed":
        assert not read[0].any()
    assert np.array_equal(read[0], read[1]) != unlike


def test_a_vocabulary_shrinks_and_every_value_still_finds_its_row(tmp_path):
    spec = SyntheticSpec(rows=4_000, ids=30_000, seed=3)
    data = prepare(PrepareSettings("synthetic", synthetic=spec), tmp_path / "data")
    base = data.vocabulary()
    rng = np.random.default_rng(1)
    maps, stored_rows = [], []
    for rows in data.rows_per_field:
        kept = np.flatnonzero(rng.random(rows - 1) < 0.05) + 1
        row_map = np.zeros(rows, np.int32)
        row_map[rng.permutation(kept)] = np.arange(1, len(kept) + 1)
        maps.append(row_map)
        stored_rows.append(len(kept) + 1)
    smaller = renumbered(base, maps, stored_rows)
    assert all(np.array_equal(a, b) for a, b in zip(maps, maps_between(base, smaller), strict=True))
    smaller.save(tmp_path / "small.safetensors")
    base.save(tmp_path / "base.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("small", "base")]
    assert sizes[0] < 0.12 * sizes[1]
    keyed = renumbered(base, [np.minimum(m, 1) for m in maps], [2] * len(maps))
    assert all(set(m.tolist()) <= {0, 1} for m in maps_between(base, keyed))


def test_hashed_fields_keep_all_their_rows(tmp_path):
    spec = SyntheticSpec(rows=4_000, ids=3_000, seed=3)
    data = prepare(PrepareSettings("synthetic", synthetic=spec, hash_rows={"C3": 50}), tmp_path / "data")
    config = TrainConfig.resolve({"network": "dnn", "dim": 4, "epochs": 1, "params": {"hidden": [8]}})
    run = train(config, tmp_path / "data", tmp_path / "run")
    settings = {"kept_share": 0.1, "start": "trained", "epochs": 1, "zero_rows": "oov"}
    smaller = compress(run, "frequency_rule", settings, None, tmp_path / "small")
    place = data.schema.names.index("C3")
    assert smaller.spec.stored_rows[place] == 51
    assert smaller.spec.tables[place].segments == ((6, 51),)
    publish_run(smaller, ModelStore(tmp_path / "store"), "ctr")
    vocabulary = data.vocabulary()
    with pytest.raises(ValueError, match="hashed"):
        renumbered(vocabulary, [np.zeros(n, np.int32) for n in data.rows_per_field], data.rows_per_field)


@pytest.mark.parametrize("zero_rows", ["keyed", "zero", "oov"])
def test_float_and_quantized_rows_after_dropping(run, dataset, tmp_path, zero_rows):
    """The zero row stays zero through fine-tuning, and through quantization by row and by column."""
    store = ModelStore(tmp_path / "store")
    dropping = {"kept_share": 0.4, "zero_rows": zero_rows, "epochs": 1}
    for chain in ("magnitude_rows", "random_rows", "magnitude_rows+ptq", "magnitude+magnitude_rows+ptq"):
        groups = {
            "magnitude_rows": dropping,
            "random_rows": dropping,
            "magnitude": {"epochs": 0},
            "ptq": {"bits": 4},
        }
        names = chain.split("+")
        settings = dropping if len(names) == 1 else {name: groups[name] for name in names}
        smaller = compress(run, chain, settings, None, tmp_path / chain / zero_rows)
        step = smaller.lineage.methods[-1 if len(names) == 1 else -2].statistics
        assert step["kept_rows"] <= 0.4 * step["rows"] + 2 * len(run.spec.rows)
        zero = [row_map.zero_row for row_map in smaller.model.row_maps]
        publish_run(smaller, store, "ctr")
        if zero_rows == "keyed" and len(names) == 1:
            weights = [
                *zip(smaller.model.tables, zero, strict=True),
                *zip(smaller.model.wide, zero, strict=True),
            ]
            assert not any(table.weight[row].any() for table, row in weights)
    with pytest.raises(CompressionError, match="would read the mean"):
        compress(run, "feature_pca+magnitude_rows", {}, None, tmp_path / "low")
