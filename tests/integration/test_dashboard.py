"""The dashboard in a real browser against a live service: the variants' rows and charts appear."""

import html
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from telemetry_service import send_traffic, telemetry_service

CHROMIUM = shutil.which("chromium")
REQUESTS, ROWS = 40, 4


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with telemetry_service(tmp_path_factory.mktemp("service")) as url:
        send_traffic(url, REQUESTS, ROWS)
        yield url


def rendered(url: str, profile: Path, window: str = "1300,1500") -> str:
    """Return the page's document after its scripts ran for five seconds of the browser's own clock."""
    if CHROMIUM is None:
        message = "chromium is not installed: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    switches = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    command = [
        CHROMIUM,
        *switches.split(),
        *quiet.split(),
        f"--user-data-dir={profile}",
        f"--window-size={window}",
    ]
    command += ["--virtual-time-budget=5000", "--dump-dom", url]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return html.unescape(answer.stdout)


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found is not None
    return found[0]


def rendered_with_data(url: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the page and its data; draws it again when the service has read its memory meanwhile."""
    for attempt in range(3):
        before = httpx.get(f"{url}/dashboard/data").json()
        page = rendered(f"{url}/dashboard", folder / f"profile-{attempt}")
        data = httpx.get(f"{url}/dashboard/data").json()
        if [one["memory"] for one in before["variants"]] == [one["memory"] for one in data["variants"]]:
            return page, data
    raise AssertionError("the memory of the versions changes all the time")


def megabytes(size: float) -> str:
    """Return bytes as the page writes them: two digits of what would be nearly nothing, else hundredths."""
    return f"{size / 1e6:#.2g}" if size < 1e5 else f"{size / 1e6:.{2 if size < 1e7 else 1}f}"


def test_the_page_shows_both_variants_in_every_section(url: str, tmp_path: Path) -> None:
    page, data = rendered_with_data(url, tmp_path)
    for name in ("quality", "memory", "latency", "traffic"):
        rows = re.findall(r'<tr data-variant="([^"]+)">', section(page, name))
        assert rows == ["stable", "canary"], name
        assert 'class="main-svg"' in section(page, name) or name == "traffic", f"{name} has no chart"
    assert "2 of 2 variants ready" in page
    for variant in data["variants"]:
        assert f"{variant['quality']['auc']:.4f}" in section(page, "quality")
        assert megabytes(variant["memory"]["resident_bytes"]) in section(page, "memory")
        assert f"{variant['memory']['artifact_ratio']:.2f}×" in section(page, "memory")
        assert f"{variant['traffic']['rows']:.0f}" in section(page, "traffic")
    experiment = section(page, "experiment")
    assert "stable-against-canary" in experiment
    shown = re.search(r"([+-]?[\d.]+) ± ([\d.]+) \(standard error\)", experiment)
    assert shown is not None
    paired = data["experiments"][0]["shadow"]["paired"]
    # two digits are shown
    assert float(shown[2]) == pytest.approx(paired["standard_error"], rel=0.05)


def test_the_data_agrees_with_what_was_sent(url: str) -> None:
    data = httpx.get(f"{url}/dashboard/data").json()
    stable, canary = data["variants"]
    assert (stable["version"], canary["version"]) == ("1", "2")
    assert stable["traffic"]["rows"] + canary["traffic"]["rows"] == REQUESTS * ROWS
    assert stable["latency"]["requests"] + canary["latency"]["requests"] == REQUESTS
    assert stable["traffic"]["share"] + canary["traffic"]["share"] == pytest.approx(1)
    assert canary["memory"]["payload_bytes"] < stable["memory"]["payload_bytes"]
    assert canary["memory"]["payload_ratio"] > 1
    assert stable["quality"]["rows"] + canary["quality"]["rows"] == REQUESTS * ROWS
    assert stable["latency"]["p50_ms"] <= stable["latency"]["p99_ms"]
    (experiment,) = data["experiments"]
    assert experiment["outcomes"]["joined"] == REQUESTS * ROWS
    assert sum(variant["exposures"] for variant in experiment["variants"]) == REQUESTS
    assert experiment["shadow"]["variant"] == "canary"


def test_a_service_with_keys_shows_the_page_and_asks_for_a_key(tmp_path: Path) -> None:
    keys = [{"sha256": "a" * 64, "scopes": ["metrics"]}]
    with telemetry_service(tmp_path, api_keys=keys) as url:
        assert httpx.get(f"{url}/dashboard").status_code == 200
        assert httpx.get(f"{url}/dashboard/data").status_code == 401
        page = rendered(f"{url}/dashboard", tmp_path / "profile", window="400,800")
    assert '<form id="key-form">' in page
    assert ">locked<" in page
