"""docs/metrics.md lists every metric with its type and labels, and no other."""

import re
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from service.telemetry import metrics as definitions
from service.telemetry.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROW = re.compile(
    r"^\| `(?P<name>[a-z_]+)` \| (?P<type>[a-z]+)( (?P<buckets>[A-Z]))? \| (?P<labels>[^|]+) \|", re.MULTILINE
)
BOUNDS = re.compile(r"^\| (?P<letter>[A-Z]) \| (?P<bounds>[0-9. ]+) \|$", re.MULTILINE)


def registered() -> dict[str, tuple[str, tuple[str, ...]]]:
    metrics = Metrics()
    found = {
        metric.describe()[0].name + ("_total" if isinstance(metric, Counter) else ""): (
            type(metric).__name__.lower(),
            tuple(metric._labelnames),
        )
        for metric in vars(metrics).values()
        if isinstance(metric, Counter | Gauge | Histogram)
    }
    for family in metrics.collect():
        if family.name.startswith(("process_", "slimctr_process_")):
            found[family.name + ("_total" if family.type == "counter" else "")] = (family.type, ())
    return found


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    return {
        row["name"]: (row["type"], () if row["labels"] == "–" else tuple(row["labels"].split(", ")))
        for row in ROW.finditer(PAGE)
    }


def test_the_page_and_the_code_list_the_same_metrics_types_and_labels() -> None:
    assert documented() == registered()


def test_no_metric_is_listed_twice() -> None:
    names = [row["name"] for row in ROW.finditer(PAGE)]
    assert len(names) == len(set(names))


def test_the_bucket_bounds_are_those_of_the_code() -> None:
    stated = {row["letter"]: tuple(map(float, row["bounds"].split())) for row in BOUNDS.finditer(PAGE)}
    assert stated == {
        "L": definitions.REQUEST_SECONDS,
        "S": definitions.STAGE_SECONDS,
        "R": definitions.ROWS,
        "D": definitions.LOGIT_DIFFERENCE,
        "B": definitions.LOAD_SECONDS,
        "T": definitions.LABEL_DELAY_SECONDS,
    }
    metrics = Metrics()
    for row in ROW.finditer(PAGE):
        if row["type"] == "histogram":
            histogram = getattr(metrics, row["name"].removeprefix("slimctr_"))
            assert tuple(histogram._upper_bounds[:-1]) == stated[row["buckets"]], row["name"]
