"""Every method on every network: tables and each hidden layer get smaller, and scores stay near at high rank."""

import numpy as np
import pytest
import torch

from slimctr.compression import find_method
from slimctr.compression.data import CompressionData
from slimctr.networks import NETWORKS, build_model, float_spec
from slimctr.training import TrainConfig, score

NEARLY_WHOLE = {"tables": True, "table_rank": 7, "mlp": False}
SMALL = {"tables": False, "mlp_rank_ratio": 0.25, "first_layer_ratio": 0.2}


@pytest.fixture(scope="module")
def data(dataset):
    return CompressionData(dataset, TrainConfig())


@pytest.fixture(scope="module", params=NETWORKS)
def model(request, dataset):
    fields = dataset.schema.fields
    spec = float_spec(
        request.param,
        dim=8,
        field_names=[field.name for field in fields],
        rows=dataset.rows_per_field,
        pooling=[field.pooling if field.multivalued else None for field in fields],
        params={"hidden": [24, 16]},
    )
    made = build_model(spec).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize(
    ("name", "settings"), [("svd", NEARLY_WHOLE), ("feature_pca", NEARLY_WHOLE), ("ptq", {"bits": 8})]
)
def test_smaller_tables_keep_the_scores_close(name, settings, model, data):
    method = find_method(name)
    smaller = method.apply(model, data, method.configure(settings)).model
    exact, close = (score(made, data.split("valid")) for made in (model, smaller))
    assert smaller.spec.tables[0] != model.spec.tables[0]
    assert np.corrcoef(exact, close)[0, 1] > (0.999 if name == "ptq" else 0.8)
    assert (exact != close).any()


@pytest.mark.parametrize("name", ["svd", "feature_pca"])
def test_every_hidden_layer_takes_its_two_factors(name, model, data):
    method = find_method(name)
    smaller = method.apply(model, data, method.configure(SMALL)).model
    assert [(layer.kind, layer.rank) for layer in smaller.spec.layers] == [
        ("pair_linear", 5),
        ("pair_linear", 4),
    ]
    assert smaller.spec.layers[0].inputs == model.spec.layers[0].inputs
    assert np.isfinite(score(smaller, data.split("valid"))).all()
