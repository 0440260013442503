"""The routes of the page: markup, assets, data, and the process stays without plotly."""

import asyncio
import subprocess
import sys

import httpx
import pytest
from dashboard_example import ExampleExperiments, NoExperiments, example_application, example_metrics
from fastapi import FastAPI

from service.errors import Unauthenticated
from service.experiments.errors import StateUnavailable
from service.settings import ApiKey, Settings
from service.telemetry.metrics import Metrics


class Client:
    """Sends GET requests straight into an application."""

    def __init__(self, application: FastAPI) -> None:
        self.application = application
        self._transport = httpx.ASGITransport(application)

    def get(self, path: str) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://service") as client:
                return await client.get(path)

        return asyncio.run(send())


@pytest.fixture
def client() -> Client:
    return Client(example_application(example_metrics(), ExampleExperiments()))


def test_the_page_and_every_asset_it_names_are_served(client: Client) -> None:
    page = client.get("/dashboard")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name, kind in (("dashboard.css", "text/css"), ("dashboard.js", "text/javascript")):
        assert f'"dashboard/static/{name}"' in page.text
        assert client.get(f"/dashboard/static/{name}").headers["content-type"].startswith(kind)


def test_the_bare_address_leads_to_the_page(client: Client) -> None:
    front = client.get("/")
    assert (front.status_code, front.headers["location"]) == (307, "dashboard")


def test_no_other_file_is_served(client: Client) -> None:
    for name in ("dashboard.html", "../dashboard.py", "%2e%2e%2f__init__.py", "metrics.py"):
        answer = client.get(f"/dashboard/static/{name}")
        assert answer.status_code == 404


def test_the_data_holds_a_row_per_variant_and_a_rate_from_the_second_look_on(client: Client) -> None:
    first = client.get("/dashboard/data")
    assert first.headers["cache-control"] == "no-store"
    assert [row["variant"] for row in first.json()["variants"]] == ["original", "int8", "lean"]
    assert first.json()["build"]["revision"] == "example"
    assert first.json()["variants"][0]["traffic"]["recent_rows_per_second"] is None
    assert client.get("/dashboard/data").json()["variants"][0]["traffic"]["recent_rows_per_second"] == 0


def test_the_page_lives_on_when_the_state_does_not_answer() -> None:
    class Down:
        async def results(self) -> dict[str, object]:
            raise StateUnavailable("redis is away")

    content = Client(example_application(example_metrics(), Down())).get("/dashboard/data").json()
    assert len(content["variants"]) == 3
    assert content["experiments"][0]["shadow"]["paired"] is None


def test_the_data_wants_a_key_with_the_scope_metrics(client: Client) -> None:
    key = ApiKey(sha256="0" * 64, scopes=frozenset({"metrics"}))
    client.application.state.settings = Settings(api_keys=(key,))
    with pytest.raises(Unauthenticated):
        client.get("/dashboard/data")
    assert client.get("/dashboard").status_code == 200


def test_a_service_without_traffic_answers_with_empty_tables() -> None:
    content = Client(example_application(Metrics(), NoExperiments())).get("/dashboard/data").json()
    assert (content["variants"], content["experiments"], content["shed"]) == ([], [], {})


def test_metrics_are_served_as_prometheus_text(client: Client) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'slimctr_shed_total{reason="queue_full"} 4.0' in answer.text


def test_the_charts_script_is_found_without_importing_plotly() -> None:
    program = (
        "import sys\n"
        "from service.routes.dashboard import plotly_script\n"
        "print(plotly_script().status_code, 'plotly' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["200", "False"]


def test_without_plotly_the_script_is_a_clear_404(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = client.get("/dashboard/static/plotly.min.js")
    assert answer.status_code == 404
    assert "slimctr[dashboard]" in answer.json()["detail"]
