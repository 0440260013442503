import pytest
from pydantic import ValidationError

from slimctr.networks import ExpandSpec, LayerSpec, ModelSpec, TableSpec, float_spec


def spec(network="deepfm", **changes):
    made = float_spec(
        network, dim=4, field_names=["a", "b"], rows=[3, 5], pooling=[None, "mean"], params={"hidden": [8]}
    )
    return ModelSpec.model_validate({**made.model_dump(), **changes})


@pytest.mark.parametrize("network", ["dnn", "deepfm", "dcn", "dcnv2"])
def test_json_round_trip(network):
    original = spec(network)
    assert ModelSpec.model_validate_json(original.model_dump_json()) == original


def test_widths_count_embedding_and_wide_columns():
    assert (spec().code_width, spec().stored_width) == (8, 10)
    assert spec("dnn").stored_width == 8


def test_resolved_params_name_every_setting():
    assert spec("dcnv2").params == {"hidden": [8], "batch_norm": True, "dropout": 0.4, "cross_layers": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [3]}, "one entry for each of the 2 fields"),
        ({"wide": [{"dim": 1}]}, "one entry for each of the 2 fields"),
        ({"wide": [{"dim": 1}, {"dim": 2}]}, "wide tables have one column"),
        ({"tables": [{"dim": 4}, {"dim": 3}]}, "field 'b': the table stores 3 columns, its expand takes 4"),
        ({"expands": [{}, {"kind": "affine", "rank": 2}]}, "field 'b': the table stores 4 columns"),
        (
            {"tables": [{"dim": 4}, {"dim": 2}], "expands": [{}, {"kind": "scatter", "columns": [1, 4]}]},
            "field 'b': column 4 is outside the embedding width 4",
        ),
        ({"expands": [{}, {"kind": "scatter", "columns": [1, 3]}]}, "field 'b'.*its expand takes 2"),
        ({"expands": [{}, {"kind": "projection", "rank": 3}]}, "field 'b'.*its expand takes 3"),
        ({"layers": [{"inputs": 8, "outputs": 8}, {"inputs": 9, "outputs": 1}]}, "8 outputs feeds one of 9"),
        ({"negative_sampling_rate": 0}, "greater than 0"),
        ({"surprise": 1}, "Extra inputs are not permitted"),
        ({"rows": [3, 0]}, "greater than or equal to 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


@pytest.mark.parametrize(
    ("record", "values"),
    [
        (TableSpec, {"dim": 2, "kind": "quantized"}),
        (TableSpec, {"dim": 2, "bits": 4, "scale": "row"}),
        (TableSpec, {"dim": 2, "kind": "quantized", "bits": 9, "scale": "row"}),
        (ExpandSpec, {"kind": "affine"}),
        (ExpandSpec, {"rank": 2}),
        (ExpandSpec, {"kind": "projection"}),
        (ExpandSpec, {"kind": "scatter"}),
        (ExpandSpec, {"kind": "scatter", "columns": [0], "rank": 1}),
        (ExpandSpec, {"columns": [0]}),
        (ExpandSpec, {"kind": "scatter", "columns": []}),
        (ExpandSpec, {"kind": "scatter", "columns": [2, 1]}),
        (ExpandSpec, {"kind": "scatter", "columns": [1, 1]}),
        (ExpandSpec, {"kind": "scatter", "columns": [-1, 1]}),
        (LayerSpec, {"kind": "pair_relu", "inputs": 2, "outputs": 2}),
        (LayerSpec, {"inputs": 2, "outputs": 2, "rank": 1}),
    ],
)
def test_half_described_parts_are_refused(record, values):
    with pytest.raises(ValidationError):
        record(**values)


def test_specifications_are_frozen():
    with pytest.raises(ValidationError):
        spec().dim = 5
