"""The load generator against a live service: figures that add up, and exit codes both ways."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from artifacts import raw_rows
from telemetry_service import telemetry_service

pytestmark = pytest.mark.alone  # a load generator and its server need the machine

SECONDS = 3


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with telemetry_service(tmp_path_factory.mktemp("service")) as url:
        yield url


def loadtest(url: str, *arguments: str, p99_ms: str = "5000") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "loadtest",
        "--host",
        url,
        "--users",
        "2",
        "--seconds",
        str(SECONDS),
    ]
    # A rate keeps the two processes from fighting over the cores of a small machine.
    command += ["--rate", "60", "--p99-ms", p99_ms, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "LOADTEST_KEY": ""}
    )


@pytest.fixture(scope="module")
def replayed(url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("replay")
    lines = [
        json.dumps({**row, "user": f"u{index}", "label": index % 2}) for index, row in enumerate(raw_rows(50))
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    out, page = folder / "report.json", folder / "report.html"
    answer = loadtest(
        url,
        "--profile",
        "replay",
        "--data",
        str(folder / "rows.jsonl"),
        "--out",
        str(out),
        "--html",
        str(page),
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "p99 <= 5000 ms: met" in answer.stdout
    assert "<html" in page.read_text()
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def test_the_generator_and_the_server_count_the_same_rows(replayed: dict[str, Any]) -> None:
    assert replayed["requests"] > 0
    assert replayed["failures"] == replayed["wrong_answers"] == replayed["outcome_failures"] == 0
    assert replayed["server"]["requests"] == replayed["requests"]
    assert replayed["server"]["rows"] == round(replayed["rows_per_second"] * replayed["seconds"])
    assert replayed["server"]["mean_batch_rows"] > 1
    assert 0 < replayed["server"]["mean_compute_infer_ms"] <= replayed["server"]["mean_request_ms"]
    assert replayed["latency_ms"]["p50"] <= replayed["latency_ms"]["p95"] <= replayed["latency_ms"]["p99"]
    assert replayed["generator"]["cpu_ratio"] > 0


def test_outcomes_were_joined(url: str, replayed: dict[str, Any]) -> None:
    text = httpx.get(f"{url}/metrics").text
    joined = [
        line for line in text.splitlines() if line.startswith("slimctr_outcomes_total") and "joined" in line
    ]
    assert sum(float(line.split()[-1]) for line in joined) == replayed["server"]["rows"]


def test_encoded_ids_need_no_data(url: str, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    answer = loadtest(url, "--profile", "smoke", "--seconds", "1", "--out", str(out))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads(out.read_text())["wrong_answers"] == 0


def test_a_missed_objective_ends_with_status_1(url: str) -> None:
    answer = loadtest(url, "--profile", "smoke", "--seconds", "1", p99_ms="0.001")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "MISSED: p99 is" in answer.stdout


def test_refused_requests_miss_the_objective(url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"no_such_field": "x"}\n')
    (tmp_path / "profile.yaml").write_text("encoding: rows\nrows_per_request: {2: 1}\nrows: {kind: replay}\n")
    arguments = ["--profile", str(tmp_path / "profile.yaml"), "--data", str(tmp_path / "rows.jsonl")]
    answer = loadtest(url, *arguments, "--seconds", "1", "--out", str(tmp_path / "report.json"))
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "requests failed" in answer.stdout
    [problem] = json.loads((tmp_path / "report.json").read_text())["problems"]
    assert (problem["request"], problem["status"], problem["slug"]) == ("score", 422, "invalid-input")
    assert (
        "#/instances/0/no_such_field: field 'no_such_field', row 0: the schema has no such field"
        in problem["detail"]
    )
    assert f"{problem['count']:,} x score: 422 invalid-input, first: {problem['detail']}" in answer.stdout


def test_a_refused_outcome_says_why(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({**raw_rows(1)[0], "user": "u1", "label": 1}))
    arguments = ["--profile", "replay", "--data", str(tmp_path / "rows.jsonl"), "--seconds", "1"]
    with telemetry_service(tmp_path, max_body_bytes=30_000, max_request_rows=1_000) as small:
        answer = loadtest(small, *arguments)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "x outcomes: 413 too-large, first: " in answer.stdout


class WrongAnswers(BaseHTTPRequestHandler):
    """A service whose scores are no probabilities."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        models = json.dumps({"models": [{"model": "ctr"}]}).encode()
        self.answer(b"" if self.path == "/metrics" else models)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b'{"scores": [1.5]}')

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_a_wrong_answer_is_counted_and_shown(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"user": "u1"}')
    (tmp_path / "profile.yaml").write_text("encoding: rows\nrows_per_request: {1: 1}\nrows: {kind: replay}\n")
    arguments = ["--profile", str(tmp_path / "profile.yaml"), "--data", str(tmp_path / "rows.jsonl")]
    with ThreadingHTTPServer(("127.0.0.1", 0), WrongAnswers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        answer = loadtest(f"http://127.0.0.1:{server.server_port}", *arguments, "--seconds", "1")
        server.shutdown()
        thread.join()
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "answers were wrong" in answer.stdout
    assert "x score: 200 wrong-answer, first: a score is no probability" in answer.stdout


def test_the_fields_of_units_and_candidates_are_named_on_the_command_line(url: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({**row, "label": 0}) for row in raw_rows(50)))
    out = tmp_path / "report.json"
    arguments = ["--profile", "slate", "--data", str(rows), "--seconds", "1", "--out", str(out)]
    answer = loadtest(url, *arguments)
    assert answer.returncode == 2
    assert "no field 'item' for the candidates" in answer.stderr
    assert "--candidate-fields" in answer.stderr
    answer = loadtest(url, *arguments, "--unit-field", "site", "--candidate-fields", "ad, price")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    profile = json.loads(out.read_text())["settings"]["profile"]
    assert (profile["unit_field"], profile["candidate_fields"]) == ("site", ["ad", "price"])


def test_what_cannot_start_ends_with_status_2(url: str) -> None:
    answer = loadtest(url, "--profile", "smoke", "--model", "nobody")
    assert answer.returncode == 2
    assert "/v2/models/nobody failed: HTTP Error 404" in answer.stderr
    assert "model 'nobody' is not served" in answer.stderr


def test_the_service_never_imports_the_generators_libraries() -> None:
    program = (
        "import sys, service.app, service.server\n"
        "print([name for name in ('gevent', 'locust', 'loadtest', 'plotly') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
