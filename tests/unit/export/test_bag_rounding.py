"""What publication allows between two sums of one bag: the rounding of as many additions, and no more."""

import numpy as np
import torch

from slimctr.clicklogs import Split
from slimctr.export.artifact import bag_rounding
from slimctr.features import Bag, EncodedBatch
from slimctr.networks import build_model, float_spec
from slimctr.training import TensorSplit


def test_long_bags_may_be_summed_in_any_order_and_single_values_are_read_alike():
    rows, longest = 6000, 5000
    spec = float_spec(
        "deepfm",
        dim=4,
        field_names=["ad", "history", "tags"],
        rows=[5, rows, rows],
        pooling=[None, "sum", "mean"],
        params={"hidden": [4]},
    )
    model = build_model(spec)
    rng = np.random.default_rng(2)
    offsets = np.array([0, 1, 1, 1 + longest], np.int32)
    values = rng.integers(1, rows, offsets[-1]).astype(np.int32)
    with torch.no_grad():
        for table in (*model.tables, *model.wide):
            torch.nn.init.normal_(table.weight)

    def stored(order: np.ndarray) -> tuple[TensorSplit, torch.Tensor]:
        bags = (Bag(values[order], offsets), Bag(values[order], offsets))
        batch = EncodedBatch.uncounted(np.zeros((3, 1), np.int32), bags)
        split = TensorSplit.of(Split(np.zeros(3, np.float32), batch))
        return split, model.lookup(split.ids, split.bags)

    split, found = stored(np.arange(len(values)))
    bound = bag_rounding(model, split)
    assert bound.shape == found.shape
    assert not bound[:, :4].any()
    assert not bound[:, 12].any()  # the first-order weight of the single value
    assert not bound[1, 4:12].any()  # an empty bag
    apart = torch.zeros_like(found)
    for _ in range(20):
        order = np.concatenate([[0], 1 + rng.permutation(longest)])
        apart = torch.maximum(apart, (stored(order)[1] - found).abs())
    assert (apart <= bound).all()
    assert (apart[2, 4:8] > 1e-6 * found[2, 4:8].abs()).any()  # what a fixed 1e-6 of the sum would refuse
    assert (bound[2, 8:12] < 1e-3).all()  # of a mean of magnitudes about 1: a wrong row is noticed
