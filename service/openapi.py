"""The OpenAPI document: what FastAPI derives from the routes, and the problem documents they all may answer."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.wire.documents import PREDICT_FORMS, ProblemAnswer

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


if __name__ == "__main__":
    from service.app import create_app
    from service.settings import Settings

    print(json.dumps(create_app(Settings(insecure=True)).openapi(), indent=1, sort_keys=True))
