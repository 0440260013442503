import math

import pytest
import torch
from rounding import SUMS64

from slimctr.errors import ConfigError
from slimctr.networks import NETWORKS, Affine, build_model, float_spec
from slimctr.networks.tables import INITIAL_DEVIATION


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
    made = model().double()
    ids = torch.tensor([[2, 6], [0, 1]], dtype=torch.int32)
    bag = (torch.tensor([1, 3, 4], dtype=torch.int32), torch.tensor([0, 2, 3], dtype=torch.int32))
    stored = made.lookup(ids, [bag])
    a, b, c = (table.weight for table in made.tables)
    wide_a, wide_b, wide_c = (table.weight for table in made.wide)
    first = torch.cat([a[2], (b[1] + b[3]) / 2, c[6], wide_a[2], (wide_b[1] + wide_b[3]) / 2, wide_c[6]])
    second = torch.cat([a[0], b[4], c[1], wide_a[0], wide_b[4], wide_c[1]])
    torch.testing.assert_close(stored, torch.stack([first, second]), rtol=SUMS64, atol=0)
    assert torch.equal(made(ids, [bag]), made.network(stored))


def test_the_correction_for_dropped_negatives_is_inside_the_network():
    plain, sampled = model("dnn"), model("dnn", negative_sampling_rate=0.1)
    sampled.load_state_dict(plain.state_dict())
    stored = torch.randn(5, 12, dtype=torch.float64)
    expected = plain.double().network(stored) + math.log(0.1)
    torch.testing.assert_close(sampled.double().network(stored), expected, rtol=0, atol=SUMS64)


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
    made, stored = made.double(), torch.randn(5, 13, dtype=torch.float64)
    before = made.network(stored)
    matrix, offset = made.expands.block()
    whole = made.backbone.mlp.blocks[0].linear
    folded = torch.nn.Linear(10, 8, dtype=torch.float64)
    folded.weight.data = whole.weight @ matrix.T
    folded.bias.data = whole.bias + whole.weight @ offset
    made.backbone.mlp.blocks[0].linear = folded
    made.mlp_on_codes = True
    torch.testing.assert_close(made.network(stored), before, rtol=0, atol=SUMS64)


@pytest.mark.parametrize("network", NETWORKS)
def test_first_order_weights_are_where_the_formula_has_them(network):
    assert (model(network).wide is not None) == (network in {"deepfm", "nfm", "fibinet", "xdeepfm"})


@pytest.mark.parametrize(
    ("network", "inputs"),
    [("dnn", 3 * 4), ("xdeepfm", 3 * 4), ("ipnn", 3 * 4 + 3), ("nfm", 4), ("fibinet", 3 * 2 * 4)],
)
def test_layer_1_is_as_wide_as_what_it_reads(network, inputs):
    assert model(network).spec.layers[0].inputs == inputs


@pytest.mark.parametrize("network", NETWORKS)
def test_settings_reach_the_backbone(network):
    """Every setting of a network changes the shapes of its weights or its dropout."""
    other = {"hidden": [7, 5], "batch_norm": False, "dropout": 0.7, "cross_layers": 1, "attention_layers": 2}
    other |= {"heads": 3, "head_width": 3, "cin": [5]}
    plain = model(network)
    for name in NETWORKS[network].Params.model_fields:
        spec = float_spec(
            network,
            dim=4,
            field_names=["a", "b", "c"],
            rows=[3, 5, 7],
            pooling=[None] * 3,
            params={"hidden": [8, 6], name: other[name]},
        )
        changed = build_model(spec)
        shapes, before = (
            [(key, tensor.shape) for key, tensor in made.state_dict().items()] for made in (changed, plain)
        )
        dropped = changed.backbone.mlp.blocks[0].dropout.cut != plain.backbone.mlp.blocks[0].dropout.cut
        assert shapes != before or dropped, name


def test_heads_share_the_embedding_width_unless_told():
    widths = {
        heads: build_model(
            float_spec(
                "autoint",
                dim=10,
                field_names=["a", "b"],
                rows=[3, 5],
                pooling=[None, None],
                params={"hidden": [4], "heads": heads},
            )
        )
        .backbone.attention[0]
        .value.out_features
        for heads in (2, 4, 16)
    }
    assert widths == {2: 10, 4: 8, 16: 16}


@pytest.mark.parametrize("network", ["ipnn", "nfm", "fibinet"])
def test_a_network_of_pairs_refuses_a_single_field(network):
    with pytest.raises(
        ConfigError, match=f"network '{network}' combines fields in pairs and needs at least 2"
    ):
        float_spec(network, dim=4, field_names=["a"], rows=[3], pooling=[None])
    spec = model(network).spec
    alone = {
        name: getattr(spec, name)[:1] for name in ("field_names", "rows", "pooling", "tables", "expands")
    }
    with pytest.raises(ConfigError, match="use 'dnn' for a single field"):
        build_model(spec.model_copy(update={**alone, "wide": spec.wide[:1]}))


def test_tables_start_small():
    weights = torch.cat([table.weight.flatten() for table in model().tables])
    assert 0 < weights.abs().max() < 10 * INITIAL_DEVIATION  # ten deviations of a normal draw


@pytest.mark.parametrize(
    ("network", "params", "message"),
    [
        ("deepfn", {}, "unknown network 'deepfn' .did you mean 'deepfm'"),
        ("dnn", {"droput": 0.1}, "no setting 'droput' .did you mean 'dropout'"),
        ("dnn", {"cross_layers": 2}, "params of network 'dnn' have no setting 'cross_layers'"),
        ("dnn", {"dropout": 1.5}, "setting 'dropout' of network 'dnn'.*1.5"),
        ("dnn", {"hidden": []}, "setting 'hidden'"),
        ("dcn", {"cross_layers": "many"}, "setting 'cross_layers'"),
        ("dcnv2", {"cross_layers": 0}, "setting 'cross_layers'"),
        ("autoint", {"heads": 0}, "setting 'heads' of network 'autoint'.*0"),
        ("autoint", {"head_size": 4}, "no setting 'head_size' .did you mean 'heads'|'head_width'"),
        ("xdeepfm", {"cin": []}, "setting 'cin' of network 'xdeepfm'"),
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
        ({"dim": 5}, "layer 1 takes 12 inputs, but 3 fields of 5 give 15 in network 'deepfm'"),
    ],
)
def test_a_specification_that_does_not_fit_its_network_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_model(model().spec.model_copy(update=changes))
