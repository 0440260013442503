import numpy as np
import torch

from slimctr.clicklogs.dataset import Split
from slimctr.features import Bag, EncodedBatch
from slimctr.training import TensorSplit


def split_of(rows: int = 10) -> TensorSplit:
    """Row r reads ids (r, r + 100) and a bag of r % 3 + 1 values r * 10, r * 10 + 1, ..."""
    ids = np.stack([np.arange(rows), np.arange(rows) + 100], axis=1).astype(np.int32)
    lengths = np.arange(rows) % 3 + 1
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = np.concatenate([row * 10 + np.arange(length) for row, length in enumerate(lengths)]).astype(
        np.int32
    )
    labels = (np.arange(rows) % 2).astype(np.float32)
    return TensorSplit.of(Split(labels, EncodedBatch.uncounted(ids, (Bag(values, offsets),))))


def test_rows_keep_their_ids_bags_and_labels():
    batch = split_of().take(torch.tensor([5, 0, 5]))
    (values, offsets), *_ = batch.bags
    assert batch.ids.tolist() == [[5, 105], [0, 100], [5, 105]]
    assert offsets.tolist() == [0, 3, 4, 7]
    assert values.tolist() == [50, 51, 52, 0, 50, 51, 52]
    assert batch.labels.tolist() == [1, 0, 1]


def test_batches_in_order_cover_every_row_once():
    batches = list(split_of().in_order(4))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.ids for batch in batches])[:, 0].tolist() == list(range(10))


def test_an_epoch_is_a_permutation_that_its_generator_decides():
    split = split_of()
    first, again, other = (
        torch.cat(split.shuffled(4, 1.0, torch.Generator().manual_seed(seed))).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(first) == list(range(10))


def test_down_sampling_keeps_every_click_and_the_asked_share_of_the_rest():
    split = split_of(20_000)
    kept = torch.cat(split.shuffled(1000, 0.25, torch.Generator().manual_seed(1)))
    clicked = split.labels[kept] > 0
    assert int(clicked.sum()) == 10_000
    assert abs(int((~clicked).sum()) - 2_500) < 4 * np.sqrt(10_000 * 0.25 * 0.75)


def test_a_last_batch_of_one_row_is_left_out():
    assert [len(index) for index in split_of(9).shuffled(4, 1.0, torch.Generator())] == [4, 4]
