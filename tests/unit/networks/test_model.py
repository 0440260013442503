import math

import pytest
import torch

from slimctr.errors import ConfigError
from slimctr.networks import Affine, build_model, float_spec


def model(network="deepfm", pooling=(None, "mean", None), **changes):
    spec = float_spec(
        network,
        dim=4,
        field_names=["a", "b", "c"],
        rows=[3, 5, 7],
        pooling=pooling,
        params={"hidden": [8, 6]},
    )
    return build_model(spec.model_copy(update=changes)).eval()


def test_lookup_puts_embeddings_in_schema_order_and_wide_columns_last():
    made = model()
    ids = torch.tensor([[2, 6], [0, 1]], dtype=torch.int32)
    bag = (torch.tensor([1, 3, 4], dtype=torch.int32), torch.tensor([0, 2, 3], dtype=torch.int32))
    stored = made.lookup(ids, [bag])
    a, b, c = (table.weight for table in made.tables)
    wide_a, wide_b, wide_c = (table.weight for table in made.wide)
    first = torch.cat([a[2], (b[1] + b[3]) / 2, c[6], wide_a[2], (wide_b[1] + wide_b[3]) / 2, wide_c[6]])
    second = torch.cat([a[0], b[4], c[1], wide_a[0], wide_b[4], wide_c[1]])
    torch.testing.assert_close(stored, torch.stack([first, second]))
    assert torch.equal(made(ids, [bag]), made.network(stored))


def test_the_correction_for_dropped_negatives_is_inside_the_network():
    plain, sampled = model("dnn"), model("dnn", negative_sampling_rate=0.1)
    sampled.load_state_dict(plain.state_dict())
    stored = torch.randn(5, 12)
    torch.testing.assert_close(sampled.network(stored), plain.network(stored) + math.log(0.1))


def test_a_first_layer_folded_with_the_expands_gives_the_same_logits():
    made = model("deepfm")
    made.expands[1] = Affine(4, 2)
    torch.nn.init.normal_(made.expands[1].basis)
    torch.nn.init.normal_(made.expands[1].mean)
    made.spec = made.spec.model_copy(
        update={
            "tables": tuple(
                t.model_copy(update={"dim": d}) for t, d in zip(made.spec.tables, (4, 2, 4), strict=True)
            )
        }
    )
    stored = torch.randn(5, 13)
    before = made.network(stored)
    matrix, offset = made.expands.block()
    whole = made.backbone.mlp.blocks[0].linear
    folded = torch.nn.Linear(10, 8)
    folded.weight.data = whole.weight @ matrix.T
    folded.bias.data = whole.bias + whole.weight @ offset
    made.backbone.mlp.blocks[0].linear = folded
    made.mlp_on_codes = True
    torch.testing.assert_close(made.network(stored), before)


def test_only_deepfm_has_wide_tables():
    assert model("deepfm").wide is not None
    assert all(model(network).wide is None for network in ("dnn", "dcn", "dcnv2"))


def test_tables_start_small():
    weights = torch.cat([table.weight.flatten() for table in model().tables])
    assert 0 < weights.abs().max() < 1e-3


@pytest.mark.parametrize(
    ("network", "params", "message"),
    [
        ("deepfn", {}, "unknown network 'deepfn' .did you mean 'deepfm'"),
        ("dnn", {"droput": 0.1}, "no setting 'droput' .did you mean 'dropout'"),
        ("dnn", {"cross_layers": 2}, "network 'dnn' has no setting 'cross_layers'"),
        ("dnn", {"dropout": 1.5}, "setting 'dropout' of network 'dnn'.*1.5"),
        ("dnn", {"hidden": []}, "setting 'hidden'"),
        ("dcn", {"cross_layers": "many"}, "setting 'cross_layers'"),
        ("dcnv2", {"cross_layers": 0}, "setting 'cross_layers'"),
    ],
)
def test_wrong_settings_are_named(network, params, message):
    with pytest.raises(ConfigError, match=message):
        float_spec(network, dim=4, field_names=["a"], rows=[3], pooling=[None], params=params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "layers of the specification"),
        ({"network": "dnn"}, "has no wide tables"),
        ({"wide": ()}, "needs wide tables"),
        ({"dim": 5}, "layer 1 takes 12 inputs, but 3 fields of 5 give 15"),
    ],
)
def test_a_specification_that_does_not_fit_its_network_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_model(model().spec.model_copy(update=changes))


@pytest.mark.parametrize("network", ["dnn", "deepfm", "dcn", "dcnv2"])
def test_the_network_half_is_one_graph_for_any_batch_size(network):
    made = model(network)

    class NetworkHalf(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = made

        def forward(self, stored):
            return self.model.network(stored)

    stored = torch.randn(3, made.spec.stored_width)
    batch = torch.export.Dim("batch", min=1)
    graph = torch.export.export(NetworkHalf(), (stored,), dynamic_shapes={"stored": {0: batch}}).module()
    for rows in (1, 3, 50):
        stored = torch.randn(rows, made.spec.stored_width)
        torch.testing.assert_close(graph(stored), made.network(stored))
