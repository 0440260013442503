import json

import pydantic
import pytest

from slimctr.errors import ConfigError
from slimctr.features import Bucketing, FeatureSchema, Field

DOCUMENT = {
    "fields": [
        {"name": "site", "kind": "categorical", "min_count": 2, "required": True},
        {"name": "price", "kind": "numeric", "bucketing": {"kind": "log_squared"}},
        {"name": "age", "kind": "numeric", "bucketing": {"kind": "edges", "edges": [18.0, 30.5]}},
        {"name": "tags", "kind": "categorical", "multivalued": True, "pooling": "sum"},
        {"name": "ad", "kind": "categorical", "hash_rows": 1000},
    ]
}


def test_a_document_becomes_fields_in_order():
    schema = FeatureSchema.parse(DOCUMENT)
    assert schema.names == ("site", "price", "age", "tags", "ad")
    assert schema.single == (0, 1, 2, 4)
    assert schema.multi == (3,)
    assert schema.index["tags"] == 3
    assert schema.fields[2] == Field(
        name="age", kind="numeric", bucketing=Bucketing(kind="edges", edges=(18.0, 30.5))
    )


@pytest.mark.parametrize("name", ["schema.json", "schema.yaml", "schema.yml"])
def test_save_and_load_give_the_same_schema(tmp_path, name):
    schema = FeatureSchema.parse(DOCUMENT)
    schema.save(tmp_path / name)
    assert FeatureSchema.load(tmp_path / name) == schema


def test_json_dump_and_parse_give_the_same_schema():
    schema = FeatureSchema.parse(DOCUMENT)
    assert FeatureSchema.parse(schema.model_dump(mode="json")) == schema


def field(**settings):
    return {"fields": [{"name": "f", "kind": "categorical", **settings}]}


def number(**bucketing):
    return {"fields": [{"name": "f", "kind": "numeric", "bucketing": bucketing}]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"fields": []}, "at least one field"),
        ({"fields": field()["fields"] * 2}, "field 'f' is declared twice"),
        (field(name="label"), "field 'label': the name is reserved"),
        (field(name="Label"), "field 'Label': the name is reserved"),
        (field(name="sparse_ids"), "field 'sparse_ids': the name is reserved"),
        (field(name="a.values"), "field 'a.values': a name is a letter"),
        (field(name="__metadata__"), "field '__metadata__': a name is a letter"),
        (field(name=""), "field '': a name is a letter"),
        (field(kind="dense"), "field 'f': kind: Input should be 'categorical' or 'numeric'"),
        (field(colour="red"), "field 'f': colour: Extra inputs are not permitted"),
        (field(min_count=0), "field 'f': min_count"),
        (field(hash_rows=0), "field 'f': hash_rows"),
        (field(hash_rows=2**31), "field 'f': hash_rows"),
        (field(hash_rows=8, min_count=2), "field 'f': a hashed field lists no values"),
        (field(bucketing={"kind": "log_squared"}), "field 'f': only a numeric field has bucketing"),
        (field(kind="numeric"), "field 'f': a numeric field needs bucketing"),
        (
            field(kind="numeric", bucketing={"kind": "log_squared"}, multivalued=True),
            "neither multi-valued nor hashed",
        ),
        (number(kind="edges"), "field 'f': bucketing: bucketing 'edges' needs at least one edge"),
        (number(kind="edges", edges=[1, 1]), "field 'f': bucketing: bucketing edges must increase strictly"),
        (number(kind="edges", edges=[1, float("nan")]), "field 'f': bucketing.edges.1"),
        (
            number(kind="log_squared", edges=[1]),
            "field 'f': bucketing: bucketing 'log_squared' takes no edges",
        ),
        ({"fields": [{"kind": "categorical"}]}, "field number 0: name: Field required"),
        ({"fields": [3]}, "field number 0"),
        ({"columns": []}, "schema"),
        ([], "schema"),
    ],
)
def test_a_wrong_document_names_the_field(document, message):
    with pytest.raises(ConfigError) as caught:
        FeatureSchema.parse(document)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"), [("absent.json", None), ("a.json", "{"), ("a.yaml", "a: [b"), ("a.json", "\ufeff")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        FeatureSchema.load(tmp_path / name)


def test_a_schema_cannot_be_changed():
    schema = FeatureSchema.parse(DOCUMENT)
    with pytest.raises(pydantic.ValidationError):
        schema.fields = ()


def test_saved_json_leaves_defaults_out(tmp_path):
    FeatureSchema.parse(DOCUMENT).save(tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text()) == DOCUMENT
