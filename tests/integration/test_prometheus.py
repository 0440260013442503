"""A real Prometheus scrapes a live service and answers a query; promtool accepts configuration, rules and metrics."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from telemetry_service import send_traffic, telemetry_service

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
REQUESTS, ROWS = 20, 3
# Counters that appear with their first event: a service in good health has none.
NOTHING_TO_SHOW = {"Failures", "Refused", "Shadow"}


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed: apt-get install prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def promtool(*arguments: str, stdin: bytes | None = None) -> str:
    answer = subprocess.run([program("promtool"), *arguments], input=stdin, capture_output=True)
    text = (answer.stdout + answer.stderr).decode()
    assert answer.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with telemetry_service(tmp_path_factory.mktemp("service")) as url:
        send_traffic(url, REQUESTS, ROWS)
        # Brings the estimates up to date, which otherwise happens every 15 seconds.
        httpx.get(f"{url}/dashboard/data").raise_for_status()
        yield url


def test_the_shipped_configuration_is_valid(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "prometheus")
    # In production the key is a secret that is mounted beside the file.
    (tmp_path / "prometheus" / "metrics_key").write_text("key")
    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "prometheus" / "prometheus.yml"))


def test_the_rules_are_valid_and_their_tests_pass() -> None:
    rules = [str(path) for path in sorted((DEPLOY / "rules").glob("*.yml"))]
    assert "SUCCESS" in promtool("check", "rules", *rules)
    tests = [str(path) for path in sorted((DEPLOY / "tests").glob("*.yml"))]
    assert tests
    assert "SUCCESS" in promtool("test", "rules", *tests)


def test_promtool_finds_no_fault_in_a_live_scrape(url: str) -> None:
    scrape = httpx.get(f"{url}/metrics")
    assert promtool("check", "metrics", stdin=scrape.content) == ""


def test_a_real_prometheus_scrapes_the_service_and_evaluates_the_rules(url: str, tmp_path: Path) -> None:
    configuration: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    configuration["global"] = {
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "evaluation_interval": "500ms",
    }
    configuration["rule_files"] = [str(DEPLOY / "rules" / "*.yml")]
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    (tmp_path / "metrics_key").write_text("not needed by an insecure service")
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    command = [program("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={tmp_path}/tsdb"]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        rows = query(process, address, 'sum(slimctr_inference_rows_total{model="ctr"})')
        assert float(rows["value"][1]) == REQUESTS * ROWS
        ready = query(process, address, "min(slimctr_model_ready)")
        assert float(ready["value"][1]) == 1
        query(process, address, "model_variant:slimctr_inference_rows:rate5m")
        for title, expression in dashboard_queries():
            if title in NOTHING_TO_SHOW:
                answer = httpx.get(f"http://{address}/api/v1/query", params={"query": expression})
                assert answer.status_code == 200, f"{title}: {answer.text}"
            else:
                assert query(process, address, expression), title
        rules = httpx.get(f"http://{address}/api/v1/rules").json()["data"]["groups"]
        assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
    finally:
        process.terminate()
        process.wait()
        log.close()


def query(process: subprocess.Popen[bytes], address: str, expression: str) -> dict[str, Any]:
    """Return the first sample of `expression` as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "prometheus ended"
        try:
            answer = httpx.get(f"http://{address}/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200 and answer.json()["data"]["result"]:
            sample: dict[str, Any] = answer.json()["data"]["result"][0]
            return sample
        # Prometheus offers nothing to wait for but its next scrape.
        time.sleep(0.1)
    raise AssertionError(f"no result for {expression}")


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield panel title and query of every panel, as Grafana would send it."""
    dashboard = json.loads((DEPLOY.parent / "grafana" / "dashboards" / "slimctr-serving.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$model", "ctr").replace("$window", "24h")
            yield panel["title"], expression.replace("$__rate_interval", "1m")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
