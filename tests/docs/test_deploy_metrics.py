"""Rules and dashboards ask only for metrics and labels that the service exports; panels keep their form."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from service.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
SCRAPE_LABELS = {"instance", "job"}
NAME = re.compile(r"\b(?:model_variant:)?(?:slimctr_|process_|http_server_)[a-z0-9_]+(?::[a-z0-9_]+)?")
SELECTOR = re.compile(r"([a-z_:0-9]+)\{([^}]*)\}")
MATCHER = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def exported() -> dict[str, set[str]]:
    """Return every sample name with its labels."""
    metrics = Metrics()
    samples: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            name, labels = metric.describe()[0].name, set(metric._labelnames)
            if isinstance(metric, Histogram):
                samples[f"{name}_bucket"] = labels | {"le"}
                samples[f"{name}_count"] = samples[f"{name}_sum"] = labels
            else:
                samples[f"{name}_total" if isinstance(metric, Counter) else name] = labels
    for family in metrics.collect():
        if "process_" in family.name:
            samples.update({sample.name: set() for sample in family.samples})
    return samples


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def panels() -> Iterator[dict[str, Any]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield panel


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                yield variable["query"]["query"]


def complaints(expression: str, known: dict[str, set[str]], recorded: set[str]) -> list[str]:
    """Return what `expression` asks for that nobody exports."""
    names = [name for name in NAME.findall(expression) if name not in recorded]
    wrong = [f"unknown metric {name}" for name in names if name not in known]
    available = set().union(*(known.get(name, set()) for name in names), SCRAPE_LABELS)
    if recorded & set(NAME.findall(expression)):
        available |= {"model", "variant"}
    for name, body in SELECTOR.findall(expression):
        wrong += [
            f"{name} has no label {label}"
            for label in MATCHER.findall(re.sub(r'"[^"]*"', '""', body))
            if label not in known.get(name, available) | SCRAPE_LABELS
        ]
    for body in GROUPING.findall(expression):
        wrong += [
            f"no metric here has the label {label}"
            for label in filter(None, (part.strip() for part in body.split(",")))
            if label not in available
        ]
    return wrong


RECORDED = {rule["record"] for rule in rules() if "record" in rule}


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_expressions_use_what_the_service_exports(expression: str) -> None:
    assert NAME.findall(expression), "an expression without any metric of ours"
    assert complaints(expression, exported(), RECORDED) == []


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(slimctr_rows_total[5m])", "unknown metric slimctr_rows_total"),
        ('slimctr_auc{experiment="e"}', "slimctr_auc has no label experiment"),
        ("sum by (field) (slimctr_auc)", "no metric here has the label field"),
    ],
)
def test_the_lint_itself_finds_mistakes(expression: str, complaint: str) -> None:
    assert complaint in complaints(expression, exported(), RECORDED)


def test_every_alert_is_prefixed_explained_and_tested_both_ways() -> None:
    tested: dict[str, list[bool]] = {}
    for path in (ROOT / "deploy" / "prometheus" / "tests").glob("*.yml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                tested.setdefault(case["alertname"], []).append(bool(case.get("exp_alerts")))
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["alert"].startswith("Slimctr")
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"]
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, alert["alert"]
        assert set(tested[alert["alert"]]) == {True, False}, alert["alert"]


def test_dashboards_have_fixed_identity_and_a_data_source_variable() -> None:
    assert DASHBOARDS
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        assert dashboard["uid"] == path.stem
        assert "id" not in dashboard
        assert dashboard["templating"]["list"][0]["name"] == "datasource"


def test_panels_say_what_they_show_in_which_unit() -> None:
    for panel in panels():
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]


def test_panels_do_not_overlap() -> None:
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            box = panel["gridPos"]
            assert box["x"] + box["w"] <= 24
            cells = {(box["x"] + i, box["y"] + j) for i in range(box["w"]) for j in range(box["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells


def test_provisioning_points_at_the_dashboards_and_a_fixed_data_source() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())
    provider = yaml.safe_load((provisioning / "dashboards" / "slimctr.yml").read_text())
    assert source["apiVersion"] == provider["apiVersion"] == 1
    assert source["datasources"][0]["uid"] == "slimctr-prometheus"
    assert provider["providers"][0]["allowUiUpdates"] is False
    assert provider["providers"][0]["disableDeletion"] is True
