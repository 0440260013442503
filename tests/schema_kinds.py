"""Small click logs of every kind of field, prepared as a user's own, and versions of them."""

from pathlib import Path
from typing import Any

from artifacts import build_artifact

from slimctr.clicklogs import Dataset, PrepareSettings, prepare
from slimctr.features import FeatureSchema

USER = {"name": "user", "kind": "categorical"}
PRICE = {"name": "price", "kind": "numeric", "bucketing": {"kind": "log_squared"}}
AGE = {"name": "age", "kind": "numeric", "bucketing": {"kind": "edges", "edges": [18.5, 30, 50]}}
TAGS = {"name": "tags", "kind": "categorical", "multivalued": True}
IP = {"name": "device-ip", "kind": "categorical", "hash_rows": 50}
MAY_LACK = [USER, PRICE, AGE, TAGS, IP]
KINDS: dict[str, list[dict[str, Any]]] = {
    "categorical": [USER],
    "numeric": [PRICE, AGE],
    "hashed": [IP],
    "multivalued": [TAGS],
    "hashed-multivalued": [{**TAGS, "hash_rows": 7, "pooling": "sum"}],
    "all": MAY_LACK,
    "all-required": [{**field, "required": True} for field in MAY_LACK],
    "never-listed": [{**USER, "min_count": 1_000, "required": True}, {**TAGS, "min_count": 1_000}],
}


def prepared(folder: Path, kind: str, lines: int = 800) -> Dataset:
    """Return the data set of a log that has every kind of value, missing ones too where the schema takes them."""
    folder.mkdir()
    rows = ["label,user,price,age,tags,device-ip,filler"]
    for row in range(lines):
        cells = [
            str(row % 3 % 2),
            f"u{row % 7}é",
            f"{row * 1.25 - 40:g}",
            str(row % 90),
            f"t{row % 3}|t{row % 5}",
        ]
        cells.append(f"10.0.{row % 4}.{row}")
        if row % 2 == 1 and kind not in ("all-required", "never-listed"):
            cells[1 + row // 2 % 5] = ""
        rows.append(",".join([*cells, "x"]))
    (folder / "log.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    FeatureSchema.parse({"fields": KINDS[kind]}).save(folder / "schema.yaml")
    settings = PrepareSettings("csv", folder / "log.csv", schema=folder / "schema.yaml")
    return prepare(settings, folder / "data")


def publish_kinds(folder: Path) -> dict[str, Dataset]:
    """Publish a model of each kind in `folder/models`, labeled stable and named after the kind."""
    datasets = {}
    for kind in KINDS:
        datasets[kind] = prepared(folder / kind, kind)
        build_artifact(
            folder / "models", kind, label="stable", dataset=folder / kind / "data", keeps_values=True
        )
    return datasets
