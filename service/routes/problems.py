"""`/problems/{slug}`: what an error answer means and what the caller can do."""

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from service.errors import UnknownName, problem_kinds

router = APIRouter(tags=["operations"])

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>Status {status}, <code>/problems/{slug}</code></p><p>{cure}</p></body></html>
"""


@router.get("/problems/{slug}", response_class=HTMLResponse)
async def problem(slug: str) -> Response:
    """Return the page of one kind of problem."""
    kind = problem_kinds().get(slug)
    if kind is None:
        raise UnknownName(f"no kind of problem is called so; there are {', '.join(sorted(problem_kinds()))}")
    return HTMLResponse(PAGE.format(title=kind.title, status=kind.status, slug=kind.slug, cure=kind.cure))
