"""JSON pointers into a body, as answers show them."""

from urllib.parse import quote

MAX_PART = 256
"""Characters of a name that are shown: a body of one name must not come back three times as large."""


def pointer_to(*path: str | int | None) -> str:
    """Return the JSON pointer of a path as a URI fragment; a name above MAX_PART characters is cut."""
    parts = (shown_name(part).replace("~", "~0").replace("/", "~1") for part in path if part is not None)
    return "#/" + "/".join(quote(part, safe="~!$&'()*+,;=:@", errors="replace") for part in parts)


def shown_name(name: str | int) -> str:
    """Return a name as answers show it."""
    text = str(name)
    return text if len(text) <= MAX_PART else text[:MAX_PART] + "…"
