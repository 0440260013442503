import numpy as np
import pytest
import torch
from rounding import assert_same_logits, exact_logits, network_error

from benchmarks.large_models import model_name, publish
from benchmarks.random_models import (
    FIELDS,
    VARIANTS,
    field_rows,
    low_rank_model,
    mixed_segments,
    uniform_ids,
    variant_of,
    whole_model,
    zipf_ids,
)
from model_store.store import ModelStore
from slimctr.features import EncodedBatch
from slimctr.scoring import Scorer

pytestmark = pytest.mark.slow  # makes models of a million ids

IDS = 3000


@pytest.mark.parametrize("ids", [IDS, 1_000_000])
def test_the_fields_hold_all_ids(ids):
    rows = field_rows(ids)

    assert len(rows) == FIELDS
    assert sum(rows) == ids
    assert list(rows) == sorted(rows)


@pytest.mark.parametrize("rows", [2, 4, 33, 1000])
def test_segments_hold_all_rows_and_favor_the_frequent(rows):
    segments = mixed_segments(rows)

    assert sum(count for _, count in segments) == rows
    assert [bits for bits, _ in segments] == sorted((bits for bits, _ in segments), reverse=True)
    assert segments[0][0] == 6


def test_ids_are_rows_of_their_field():
    rows = field_rows(IDS)
    for ids in (zipf_ids(rows, 500, seed=1), uniform_ids(rows, 500, seed=1)):
        assert ids.dtype == np.int32
        assert (ids >= 0).all()
        assert (ids < np.array(rows)).all()


def test_variants_are_published_once_and_score_like_the_original(tmp_path):
    variants = ("original", "pca_8bit", "pca_mixed")
    versions = publish(tmp_path, IDS, variants)

    assert publish(tmp_path, IDS, variants) == versions
    store, name = ModelStore(tmp_path), model_name(IDS)
    assert store.versions(name) == sorted(versions.values())
    batch = EncodedBatch.uncounted(zipf_ids(field_rows(IDS), 200, seed=3))
    logits = {}
    for variant in variants:
        scorer = Scorer.open(store.path(name, versions[variant]))
        logits[variant] = scorer.logits(batch)
        assert scorer.encoder.encode_rows([dict.fromkeys(scorer.encoder.schema.names, "2")]).ids.max() == 2
        scorer.close()
    assert logits["original"].std() > 0.01  # scores differ at all
    assert np.corrcoef(logits["pca_8bit"], logits["original"])[0, 1] > 0.99
    assert np.corrcoef(logits["pca_mixed"], logits["original"])[0, 1] > 0.7


def test_a_low_rank_model_is_the_original_in_factors():
    low = low_rank_model(field_rows(IDS), seed=0)
    ids = torch.from_numpy(zipf_ids(field_rows(IDS), 200, seed=3))

    whole = whole_model(low)
    codes, embeddings = low.lookup(ids).detach(), whole.lookup(ids).detach()
    # an embedding of the whole model was rounded once more, as an expanded one is
    error = network_error(low.network, codes) + network_error(whole.network, embeddings)
    assert_same_logits(whole(ids).detach(), exact_logits(low, codes), error)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_model_of_the_same_rows(variant):
    low = low_rank_model(field_rows(IDS), seed=0)

    assert variant_of(variant, low).spec.rows == low.spec.rows
