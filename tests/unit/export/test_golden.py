"""Golden rows cover head, torso, tail, OOV and missing of every field."""

import numpy as np

from slimctr.export.golden import GOLDEN_ROWS, golden_batch, select_rows


def values_of(batch, schema, field):
    if field in schema.single:
        return set(batch.ids[:, schema.single.index(field)].tolist())
    return set(batch.bags[schema.multi.index(field)].values.tolist())


def test_every_field_is_read_at_its_edges(dataset):
    vocabulary, schema = dataset.vocabulary(), dataset.schema
    batch = golden_batch(dataset.load("valid").batch, vocabulary)
    assert len(batch) >= GOLDEN_ROWS
    for field in range(len(schema.fields)):
        rows = vocabulary.rows(field)
        wanted = {0, 1, rows // 2, rows - 1, int(vocabulary.missing_rows[field])}
        assert wanted <= values_of(batch, schema, field), schema.names[field]
        assert max(values_of(batch, schema, field)) < rows


def test_few_rows_are_used_more_than_once(dataset):
    vocabulary = dataset.vocabulary()
    batch = golden_batch(dataset.load("valid").batch.slice(0, 3), vocabulary)
    assert 0 in values_of(batch, dataset.schema, 4)
    assert len(batch) > 3


def test_choice_is_repeatable(dataset):
    rows, vocabulary = dataset.load("valid").batch, dataset.vocabulary()
    first, second = golden_batch(rows, vocabulary), golden_batch(rows, vocabulary)
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_array_equal(first.bags[0].values, second.bags[0].values)


def test_the_source_is_not_changed(dataset):
    rows = dataset.load("valid").batch
    before = rows.ids.copy()
    golden_batch(rows, dataset.vocabulary())
    np.testing.assert_array_equal(rows.ids, before)


def test_selected_rows_keep_their_bags(dataset):
    rows = dataset.load("valid").batch
    chosen = select_rows(rows, np.array([5, 2, 5]))
    for bag, source in zip(chosen.bags, rows.bags, strict=True):
        expected = [source.values[source.offsets[i] : source.offsets[i + 1]] for i in (5, 2, 5)]
        assert bag.values.tolist() == np.concatenate(expected).tolist()
        assert np.diff(bag.offsets).tolist() == [len(part) for part in expected]
