import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from slimctr.errors import ConfigError, EngineError
from slimctr.quickstart.pipeline import build_variants, find_clicks
from slimctr.quickstart.server import refuse_taken_port, running_service
from slimctr.quickstart.table import Line, result_table, served_quality
from slimctr.quickstart.traffic import Client, live_traffic, score_all


class Recorder(BaseHTTPRequestHandler):
    """Answers every row with a tenth of its `n`, outcomes with nothing, and `/broken` with 503."""

    received: list[tuple[str, dict]]

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((self.path, body))
        number = len(self.received)
        answer = {"request_id": f"r{number}", "variant": "small" if number % 2 else "original"}
        answer["scores"] = [row["n"] / 10 for row in body.get("instances", [])]
        data = json.dumps(answer).encode()
        self.send_response(503 if self.path == "/broken" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Keep the test output clean."""


@pytest.fixture
def recorder():
    handler = type("Handler", (Recorder,), {"received": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = Client(f"http://127.0.0.1:{server.server_port}")
    yield client, handler.received
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_row_is_scored_in_order_after_a_warm_up(recorder):
    client, received = recorder
    counted = []
    served = score_all(client, "ctr", "int8", [{"n": n} for n in range(7)], 3, counted.append)
    assert served.scores.tolist() == [n / 10 for n in range(7)]
    assert counted == [3, 3, 1]
    assert len(served.latencies_ms) == 3
    assert {(path, body["label"]) for path, body in received} == {("/v1/predict", "int8")}


def test_live_traffic_is_one_request_per_unit_and_one_outcome_per_row(recorder):
    client, received = recorder
    rows = [{"user": "a", "n": 1}, {"user": "b", "n": 2}, {"user": "a", "n": 3}]
    shares = live_traffic(client, "ctr", "user", rows, np.array([1, 0, 0]), lambda count: None)
    assert shares == {"small": 2, "original": 1}
    requests = [body for path, body in received if path == "/v1/predict"]
    assert [(body["unit_id"], len(body["instances"])) for body in requests] == [("a", 2), ("b", 1)]
    outcomes = received[-1][1]["outcomes"]
    assert [(o["request_id"], o["index"], o["clicked"]) for o in outcomes] == [
        ("r1", 0, 1),
        ("r1", 1, 0),
        ("r2", 0, 0),
    ]
    assert len({o["outcome_id"] for o in outcomes}) == 3


def test_a_refusal_shows_path_status_and_body(recorder):
    client, _ = recorder
    with pytest.raises(EngineError, match=r"POST /broken answered 503: .*request_id"):
        client.post("/broken", {})


def test_a_taken_port_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"is taken: .*--port"):
            refuse_taken_port("127.0.0.1", taken.getsockname()[1])


def test_a_service_that_cannot_start_shows_its_log(tmp_path):
    missing = tmp_path / "none.yaml"
    with (
        pytest.raises(EngineError, match=r"(?s)did not become ready.*none\.yaml"),
        running_service(store=tmp_path, experiment=missing, state=tmp_path, host="127.0.0.1", port=1),
    ):
        pass


def test_quality_of_served_probabilities():
    labels = np.array([0, 1, 0, 1])
    area, loss = served_quality(labels, np.array([0.1, 0.9, 0.2, 0.8]))
    assert area == 1.0
    assert loss == pytest.approx(-np.log([0.9, 0.9, 0.8, 0.8]).mean())


def test_the_table_shows_ratios_to_the_original():
    def line(name: str, size: int) -> Line:
        return Line(name, 0.98, 0.15, size, size, size, 1.0, 2.0, 1000.0)

    console = Console(width=200)
    with console.capture() as capture:
        console.print(result_table([line("original", 3_000_000), line("small", 600_000)], "clicks"))
    assert "600 KB (5.0x)" in capture.get()


def test_a_folder_with_other_files_is_never_emptied(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"not the demo's; choose another --work"):
        build_variants(find_clicks(), tmp_path, tmp_path / "models", Console(), lambda told: None)
    assert (tmp_path / "thesis.txt").is_file()


def test_frappe_is_preferred_and_its_absence_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLIMCTR_DATA", raising=False)
    assert "no frappe_x1 under" in find_clicks().told
    Path("data/frappe_x1/raw_values").mkdir(parents=True)
    assert find_clicks().unit_field == "user"
