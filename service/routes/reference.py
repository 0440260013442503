"""`/openapi.json` with the fields of the served models, and `/docs`: the same as a page that needs no script."""

import json
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from service.auth import may
from service.openapi import row_name, with_models
from service.pool import Pool
from service.routes.models import serving_version

router = APIRouter(include_in_schema=False)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .25rem 0; }
code, pre { font-size: 13px; }
pre { background: #f4f4f5; padding: .75rem; overflow-x: auto; }
.verb { display: inline-block; width: 4rem; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  body { background: #18181b; color: #e4e4e7; }
  pre { background: #27272a; }
  a { color: #93c5fd; }
}
"""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
)


@router.get("/openapi.json")
async def document(request: Request) -> Response:
    """Return the OpenAPI document."""
    return JSONResponse(await _document(request))


async def _document(request: Request) -> dict[str, Any]:
    """Return the document; fields and examples are for those who may score, because examples are values of a log."""
    document: dict[str, Any] = request.app.openapi()
    if not may(request, "infer"):
        return document
    pool: Pool = request.app.state.pool
    fields = {}
    for model in pool.models():
        number = serving_version(request.app.state.experiments, pool, model)
        if number:
            fields[model] = (await pool.catalog.fields(model, [number]))[number]
    return with_models(document, fields)


@router.get("/docs")
async def reference(request: Request) -> Response:
    """Return the page."""
    page = render(await _document(request))
    return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})


def render(document: dict[str, Any]) -> str:
    """Return the HTML of an OpenAPI document: operations by tag, then the schemas they refer to."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            tag = operation.get("tags", ["other"])[0]
            by_tag.setdefault(tag, []).append(_operation(verb.upper(), path, operation))
    sections = [f"<h2>{escape(tag)}</h2>{''.join(entries)}" for tag, entries in by_tag.items()]
    schemas = document.get("components", {}).get("schemas", {})
    sections.append("<h2>schemas</h2>")
    sections += [
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{_json(schema)}</details>'
        for name, schema in sorted(schemas.items())
    ]
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1><p>{escape(info.get('description', ''))} "
        f'Machines read <a href="openapi.json">openapi.json</a>.</p>{"".join(sections)}</body></html>'
    )


def _operation(verb: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    if "parameters" in operation:
        items = "".join(
            f"<li><code>{escape(item['name'])}</code> ({escape(item['in'])}) {_inline(item.get('schema', {}))}</li>"
            for item in operation["parameters"]
        )
        parts.append(f"<h4>Parameters</h4><ul>{items}</ul>")
    request = operation.get("requestBody", {})
    parts += [f"<p>{escape(request['description'])}</p>"] if "description" in request else []
    for kind, body in request.get("content", {}).items():
        parts.append(f"<h4>Request: {escape(kind)}</h4>")
        for name, example in body.get("examples", {}).items():
            rows = f'<a href="#{escape(row_name(name))}">{escape(example["summary"])}</a>'
            parts.append(
                f"<p>{rows}</p>{_json(example['value'])}" if "value" in example else f"<p>{rows}</p>"
            )
        parts += [_json(schema) for schema in body.get("schema", {}).get("oneOf", [body.get("schema", {})])]
    for status, answer in operation["responses"].items():
        parts.append(f"<h4>{escape(status)}: {escape(answer['description'])}</h4>")
        parts += [_json(body["schema"]) for body in answer.get("content", {}).values() if body.get("schema")]
    heading = (
        f'<span class="verb">{verb}</span><code>{escape(path)}</code> {escape(operation.get("summary", ""))}'
    )
    return f"<details><summary>{heading}</summary>{''.join(parts)}</details>"


def _inline(schema: dict[str, Any]) -> str:
    return f"<code>{escape(json.dumps(schema))}</code>"


def _json(schema: dict[str, Any]) -> str:
    reference_to = schema.get("$ref", "").rpartition("/")[2]
    if reference_to:
        return f'<p><a href="#{escape(reference_to)}">{escape(reference_to)}</a></p>'
    return f"<pre>{escape(json.dumps(schema, indent=2))}</pre>"
