"""The OpenAPI document: what FastAPI derives from the routes, and the problem documents they all may answer."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.models.inputs import example_body, row_schema
from service.wire.documents import PREDICT_FORMS, FieldAnswer, ProblemAnswer

_PROBLEM = {
    "description": "A problem document (RFC 9457); `/problems/{slug}` explains its type.",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}},
}
# Given to the application as a whole; naming 4XX also keeps the framework's own validation error out.
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {"4XX": _PROBLEM, "5XX": _PROBLEM}


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """Return the document of `app`, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            # Where the document itself was found: a proxy may serve everything below a path of its own.
            servers=[{"url": "."}],
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for body in (ProblemAnswer, *PREDICT_FORMS):  # no parameter of a route names them
            schemas[body.__name__] = body.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema


def with_models(document: dict[str, Any], fields: Mapping[str, Sequence[FieldAnswer]]) -> dict[str, Any]:
    """Return a copy of `document` with a schema of the rows of each model and, where known, an example request."""
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    for model, known in fields.items():
        schemas[row_name(model)] = {"description": f"A row of model {model}."} | row_schema(known)
        example = {"summary": f"A request of model {model}; its fields: {row_name(model)}"}
        value = example_body(model, known)
        body.setdefault("examples", {})[model] = example | ({} if value is None else {"value": value})
    return document


def row_name(model: str) -> str:
    """Return the name of the schema of a model's rows; no model makes it the name of another schema."""
    return f"Row.{model}"


if __name__ == "__main__":
    from service.app import create_app
    from service.settings import Settings

    print(json.dumps(create_app(Settings(insecure=True)).openapi(), indent=1, sort_keys=True))
