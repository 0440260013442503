"""docs/serving.md names every setting and kind of problem; docs/openapi.json is what is served."""

import json
import re
from pathlib import Path

from service.app import create_app
from service.errors import problem_kinds
from service.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "serving.md").read_text(encoding="utf-8")


def table_rows(heading: str) -> list[list[str]]:
    """Return the cells of the table rows below a heading, without their header."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in table_rows("Settings")}
    assert set(documented) == set(Settings.model_fields)
    defaults = Settings(insecure=True).model_dump(mode="json") | {"insecure": False}
    for name, value in defaults.items():
        shown = "–" if value is None else value if isinstance(value, str) else json.dumps(value)
        assert documented[name] == shown, name


def test_every_kind_of_problem_is_documented_with_its_status() -> None:
    documented = {
        slug: {int(status) for status in re.findall(r"\d+", row[0])}
        for row in table_rows("Errors")
        for slug in re.findall(r"`([a-z-]+)`", row[1])
    }
    assert set(documented) == set(problem_kinds())
    for slug, kind in problem_kinds().items():
        assert kind.status in documented[slug], slug


def test_the_committed_openapi_document_is_the_served_one() -> None:
    served = create_app(Settings(insecure=True)).openapi()
    committed = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    assert committed == served, "write it again: python -m service.openapi > docs/openapi.json"
