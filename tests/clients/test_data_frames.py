"""Data frames as their libraries write them into an Arrow stream score as the rows do."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from arrow_streams import stream
from artifacts import build_artifact, raw_rows
from live_service import LiveService, live_service

ARROW = "application/vnd.apache.arrow.stream"
# Views hold up to 12 bytes themselves; longer texts lie in buffers of their own.
ROWS = [
    {**row, "site": ("s" * (number % 30)) + "ü" * (number % 3), "ad": row["ad"] or "a1"}
    for number, row in enumerate(raw_rows(300, seed=2))
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("frames")
    build_artifact(folder / "models", label="stable")
    with live_service(folder / "models", folder) as running:
        yield running


def scores_of(service: LiveService, body: bytes) -> list[float]:
    response = service.http.post("/v1/predict", content=body, headers={"content-type": ARROW})
    assert response.status_code == 200, response.text
    scores: list[float] = response.json()["scores"]
    return scores


@pytest.fixture(scope="module")
def expected(service: LiveService) -> list[float]:
    scores: list[float] = service.predict(instances=ROWS)["scores"]
    return scores


def polars_frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS, schema_overrides={"tags": pl.List(pl.String)})


def polars_stream(frame: pl.DataFrame, **settings: Any) -> bytes:
    sink = io.BytesIO()
    frame.write_ipc_stream(sink, **settings)
    return sink.getvalue()


POLARS: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "as it is": lambda frame: frame,
    "several chunks": lambda frame: pl.concat([frame[:7], frame[7:150], frame[150:]], rechunk=False),
    "sliced": lambda frame: pl.concat([frame, frame])[150:450][150:].vstack(pl.concat([frame, frame])[450:]),
    "categories": lambda frame: frame.with_columns(pl.col("user", "site").cast(pl.Categorical)),
    "bytes": lambda frame: frame.with_columns(pl.col("user", "site").cast(pl.Binary)),
    "lists of categories": lambda frame: frame.with_columns(pl.col("tags").cast(pl.List(pl.Categorical))),
}


@pytest.mark.parametrize("name", POLARS)
def test_polars(service: LiveService, expected: list[float], name: str) -> None:
    assert scores_of(service, polars_stream(POLARS[name](polars_frame()))) == expected


def test_polars_with_the_oldest_types(service: LiveService, expected: list[float]) -> None:
    assert scores_of(service, polars_stream(polars_frame(), compat_level=pl.CompatLevel.oldest())) == expected


def pandas_stream(frame: pd.DataFrame, **settings: Any) -> bytes:
    return stream(pa.Table.from_pandas(frame, **settings))


PANDAS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "a range": lambda frame: frame,
    "numbers": lambda frame: frame.set_axis(np.arange(300)[::-1]),
    "text": lambda frame: frame.set_axis([f"row {i}" for i in range(300)]),
    "a name": lambda frame: frame.set_axis(pd.Index(range(0, 600, 2), name="row_id")),
    "times": lambda frame: frame.set_axis(pd.date_range("2026-01-01", periods=300, freq="h")),
    "categories": lambda frame: frame.set_axis(pd.CategoricalIndex([f"c{i % 7}" for i in range(300)])),
    "two levels": lambda frame: frame.set_axis(pd.MultiIndex.from_arrays([range(300), ["x"] * 300])),
    "filtered": lambda frame: pd.concat([frame, frame])[lambda both: np.arange(600) < 300],
    "a field": lambda frame: frame.set_index("user"),
}


@pytest.mark.parametrize("name", PANDAS)
def test_pandas_with_any_index(service: LiveService, expected: list[float], name: str) -> None:
    frame = PANDAS[name](pd.DataFrame(ROWS))
    assert scores_of(service, pandas_stream(frame)) == expected
    if name == "a range":
        assert scores_of(service, pandas_stream(frame, preserve_index=True)) == expected


@pytest.mark.parametrize("pandas", ["", "{", "[]", '{"index_columns": 3}', '{"index_columns": [3, {}]}'])
def test_only_what_pandas_says_is_an_index_is_left_out(service: LiveService, pandas: str) -> None:
    table = pa.table({"ad": ["a1"], "__index_level_0__": [1]}).replace_schema_metadata({"pandas": pandas})
    for metadata in (pandas, '{"index_columns": ["__index_level_0__"]}', pandas):
        body = stream(table.replace_schema_metadata({"pandas": metadata}))
        response = service.http.post("/v1/predict", content=body, headers={"content-type": ARROW})
        assert response.status_code == (200 if "__index" in metadata else 422)
