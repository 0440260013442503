"""What a client sends to a version: its fields as the schema says, with examples out of its golden rows."""

from collections.abc import Iterable
from typing import Any

from model_store.artifact import GOLDEN_VALUES_FILE
from model_store.errors import StoreError
from model_store.store import ModelStore
from model_store.tensors import open_regular
from service.wire.documents import FieldAnswer
from slimctr.errors import ConfigError, EngineError
from slimctr.features import FeatureSchema, Field
from slimctr.scoring.golden import UNLISTED, read_golden_values

# 32 values of every field; what is longer was not published by slimctr.
MAX_GOLDEN_VALUES_BYTES = 16 * 1024 * 1024
_REFUSED = "a row without a value is refused (422)"


def read_fields(store: ModelStore, model: str, version: int) -> list[FieldAnswer]:
    """Return the fields of a version in schema order; none when its manifest is refused.

    Examples are null for a version without readable golden values, such as those that were published before they
    were kept. No file but the manifest and the golden values is read.
    """
    try:
        manifest = store.manifest(model, version)
        schema = FeatureSchema.parse(manifest.features)
    except (StoreError, ConfigError, OSError):
        return []
    examples: dict[str, Any] = {}
    try:
        with open_regular(store.path(model, version) / GOLDEN_VALUES_FILE) as file:
            golden = read_golden_values(file.read(MAX_GOLDEN_VALUES_BYTES), schema)
        examples = {field.name: _example(field, golden.values[field.name]) for field in schema.fields}
    except (StoreError, EngineError, OSError):
        pass
    return [
        FieldAnswer(
            name=field.name,
            kind=field.kind,
            multivalued=field.multivalued,
            required=field.required,
            missing=_REFUSED if field.required else _missing(field),
            example=examples.get(field.name),
        )
        for field in schema.fields
    ]


def example_body(model: str, fields: Iterable[FieldAnswer]) -> dict[str, Any] | None:
    """Return a request of one row that holds the example of every field; None when there are no examples."""
    row = {field.name: field.example for field in fields if field.example is not None}
    return {"model": model, "instances": [row]} if row else None


def row_schema(fields: Iterable[FieldAnswer]) -> dict[str, Any]:
    """Return the JSON schema of one row."""
    fields = list(fields)
    return {
        "type": "object",
        "properties": {field.name: _value_schema(field) for field in fields},
        "required": [field.name for field in fields if field.required],
    }


def _example(field: Field, column: Iterable[Any]) -> Any:
    """Return a value that rows of the log had, where there is one."""
    given = [value for value in column if value not in (None, "", [])]
    if field.kind == "numeric":
        # Edges of buckets come first, as floats; a logged 1 is not the edge 1.0.
        numbers = {repr(value): value for value in given if isinstance(value, int | float)}
        return next(reversed(numbers.values()), None)
    seen = [value for value in given if value != UNLISTED and UNLISTED not in _values(value)] or given
    bags = [value for value in seen if isinstance(value, list) and len(value) > 1]
    return min(bags, key=len) if bags else next(iter(seen), None)


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _missing(field: Field) -> str:
    if field.multivalued:
        return "absent, null or []"
    return 'absent, null or ""' if field.kind == "categorical" else "absent or null"


def _value_schema(field: FieldAnswer) -> dict[str, Any]:
    types = ["number"] if field.kind == "numeric" else ["string", "integer", "boolean"]
    schema: dict[str, Any] = {"type": types}
    if field.multivalued:
        schema = {"type": ["array"], "items": schema}
    if not field.required:
        schema["type"] = [*schema["type"], "null"]
    schema["description"] = f"{field.kind}; missing: {field.missing}"
    if field.example is not None:
        schema["examples"] = [field.example]
    return schema
