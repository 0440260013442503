"""Recognizes the format of a log by its first line, to say in an error which format was probably meant."""

CRITEO_CELLS = 40
AVAZU_CELLS = 24


def guess_format(line: str) -> str:
    """Return a sentence on what a first line looks like; empty when it looks like nothing known."""
    tabs = line.count("\t") + 1
    commas = line.count(",") + 1
    if tabs == CRITEO_CELLS:
        return "40 tab-separated cells look like --format criteo"
    if tabs == CRITEO_CELLS - 1:
        return "39 tab-separated cells look like Criteo's test file, which has no labels"
    if commas == AVAZU_CELLS:
        return "24 comma-separated cells look like --format avazu"
    if line.startswith("PAR1"):
        return "it looks like --format parquet"
    tokens = line.split()
    if len(tokens) > 1 and all(":" in token for token in tokens[1:]):
        return "label and index:value pairs look like --format libfm"
    if commas > 1 or tabs > 1:
        separator = "commas" if commas >= tabs else "tabs"
        return f"{max(commas, tabs)} cells separated by {separator} look like --format csv"
    return ""
