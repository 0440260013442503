from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from slimctr.clicklogs.click_log import ClickLog
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.features import FeatureSchema


@dataclass
class Reading:
    """All rows of a log as Python objects, with the lines that were refused."""

    rows: dict[str, list[Any]]
    errors: ParseErrors

    @property
    def refused(self) -> list[tuple[int, str]]:
        return [(example.line, example.detail) for example in self.errors.examples]


@pytest.fixture
def read_log() -> Callable[..., Reading]:
    def read(log: ClickLog, schema: FeatureSchema | None = None, strict: bool = False) -> Reading:
        errors = ParseErrors(strict)
        batches = list(log.batches(schema or log.infer_schema(), errors))
        assert log.fraction == pytest.approx(1.0)
        return Reading(pa.Table.from_batches(batches).to_pydict(), errors)

    return read


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write text or bytes to a file of the test's folder, compressed by suffix."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        codec = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}.get(path.suffix)
        with pa.output_stream(path, compression=codec) as stream:
            stream.write(data)
        return path

    return write_file
