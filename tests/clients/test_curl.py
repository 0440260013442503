"""`curl --http2`, which asks for HTTP/2 by `Upgrade: h2c`, and `--http2-prior-knowledge`, which cannot be served."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from client_requests import Answered, Ask, asks, comparable, scored_and_clicked
from live_service import LiveService

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(service: LiveService, ask: Ask, folder: Path, *options: str) -> Answered:
    body, out = folder / "body", folder / "out"
    body.write_bytes(ask.body)
    data = ["--data-binary", f"@{body}"] if ask.body else []
    headers = [part for name, value in ask.headers.items() for part in ("-H", f"{name}: {value}")]
    command = ["curl", "-sS", "--max-time", "60", "-X", ask.method, *options, *headers, *data, "-o", str(out)]
    command += ["-w", "%{http_version} %{http_code} %{content_type}"]
    url = f"http://{service.host}:{service.port}{ask.path}"
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    version, status, content_type = done.stdout.split(" ", 2)
    assert version == "1.1"
    return int(status), content_type, out.read_bytes()


@pytest.mark.parametrize("form", ["length", "chunked", "expect"])
def test_every_request_is_answered_as_to_a_plain_client(
    service: LiveService, direct: dict[str, Answered], form: str, tmp_path: Path
) -> None:
    options = {
        "length": (),
        "chunked": ("-H", "Transfer-Encoding: chunked"),
        "expect": ("-H", "Expect: 100-continue"),
    }[form]
    for ask in asks():
        if form == "length" or ask.body:
            answered = curl(service, ask, tmp_path, "--http2", *options)
            assert comparable(answered) == direct[ask.name], ask.name


def test_outcomes_join_what_was_scored(service: LiveService, tmp_path: Path) -> None:
    scored, clicked = scored_and_clicked("curl")
    curl(service, scored, tmp_path, "--http2")
    assert json.loads(curl(service, clicked, tmp_path, "--http2")[2])["joined"] == 1


def test_http2_without_asking_is_refused_at_once(service: LiveService) -> None:
    url = f"http://{service.host}:{service.port}/livez"
    command = ["curl", "-sS", "--http2-prior-knowledge", "--max-time", "60", url]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode not in (0, 28)
    assert service.http.get("/livez").status_code == 200
