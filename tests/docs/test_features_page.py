"""docs/features.md says what the code does."""

import re
from pathlib import Path

import numpy as np
import yaml

from slimctr.features import Encoder, FeatureSchema, Field, Vocabulary
from slimctr.features.schema import RESERVED_NAMES
from slimctr.native.keys import hash_text

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "features.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.S).group(1)


def test_the_schema_and_the_python_example_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("schema.yaml").write_text(block("yaml"), encoding="utf-8")
    schema = FeatureSchema.parse(yaml.safe_load(block("yaml")))
    listed = [field.name for field in schema.fields if field.hash_rows is None]
    Vocabulary.build(schema, {name: ["a"] for name in listed}).save("vocabulary.safetensors")
    names = {"FeatureSchema": FeatureSchema, "Encoder": Encoder, "Vocabulary": Vocabulary}
    exec(block("python"), names)


def test_every_setting_and_reserved_name_is_documented():
    for name in (*Field.model_fields, *RESERVED_NAMES):
        assert f"`{name}`" in PAGE


def test_the_hash_vectors_are_right():
    rows = re.findall(r"^\| (\(empty\)|`\w+`) \| (\d) \| `([0-9a-f]{16})` \|$", PAGE, re.M)
    assert len(rows) == 4
    for key, seed, expected in rows:
        data = np.frombuffer(b"" if key == "(empty)" else key.strip("`").encode(), np.uint8)
        found = hash_text(data, np.array([0]), np.array([len(data)]), int(seed))[0]
        assert f"{found:016x}" == expected
