"""Recognizes the format of a log by how it begins, to say in an error which format was probably meant."""

CRITEO_CELLS = 40
AVAZU_CELLS = 24
_SEPARATORS = {";": "semicolons", "|": "bars", "\x01": "Hive's \\x01", "\t": "tabs"}
_UNPACK = "unpack it, or compress it with zstd, gzip or bzip2"
_KINDS = {
    b"\xfd7zXZ": f"compressed with xz: {_UNPACK}",
    b"\x04\x22\x4d\x18": f"compressed with lz4: {_UNPACK}",
    b"PK\x03\x04": "a zip archive, as an Excel workbook is: unpack it, or save the sheet as csv",
    b"\x28\xb5\x2f\xfd": "compressed as a whole: unpack it",
    b"\x1f\x8b": "compressed as a whole: unpack it",
    b"BZh": "compressed as a whole: unpack it",
    b"PAR1": "Parquet: read it with --format parquet",
    b"ARROW1": "an Arrow (Feather) file: write it as Parquet",
    b"ORC": "ORC: write it as Parquet",
    b"Obj\x01": "Avro: write it as Parquet",
    b"\xff\xfe": "UTF-16 text: write it in UTF-8",
    b"\xfe\xff": "UTF-16 text: write it in UTF-8",
}


def guess_kind(head: bytes) -> str:
    """Return a sentence on what a file of another kind is, by its first bytes; empty when they are nothing known."""
    return next((f"It is {kind}" for magic, kind in _KINDS.items() if head.startswith(magic)), "")


def guess_format(line: str) -> str:
    """Return a sentence on what a first line looks like; empty when it looks like nothing known."""
    if known := _known_layout(line):
        return known
    commas, tabs = line.count(",") + 1, line.count("\t") + 1
    if commas > 1 or tabs > 1:
        separator = "commas" if commas >= tabs else "tabs"
        return f"{max(commas, tabs)} cells separated by {separator} look like --format csv"
    return ""


def guess_header(line: str, delimiter: str) -> str:
    """Return a sentence on why `delimiter` finds no label in a header line; empty when nothing speaks against it."""
    if known := _known_layout(line):
        return known
    if line.startswith("{"):
        return "It looks like JSON: write it as Parquet or csv"
    if delimiter == "\t" and line.startswith('"') and line.endswith('"'):
        return "A tab-separated file knows no quotes: write it without, or with commas as csv"
    separator = max(_SEPARATORS, key=line.count)
    if delimiter in line or separator not in line:
        return ""
    return f"Its cells seem to be separated by {_SEPARATORS[separator]}: write it with commas, or with tabs as .tsv"


def _known_layout(line: str) -> str:
    tabs = line.count("\t") + 1
    if tabs == CRITEO_CELLS:
        return "40 tab-separated cells look like --format criteo"
    if tabs == CRITEO_CELLS - 1:
        return "39 tab-separated cells look like Criteo's test file, which has no labels"
    if line.count(",") + 1 == AVAZU_CELLS:
        return "24 comma-separated cells look like --format avazu"
    tokens = line.split()
    if len(tokens) > 1 and all(":" in token for token in tokens[1:]):
        return "label and index:value pairs look like --format libfm"
    return ""
