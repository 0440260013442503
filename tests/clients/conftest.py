"""A service with an experiment, and what it answers to a direct connection."""

import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from artifacts import build_artifact
from client_requests import Answered, Ask, asked, asks, comparable
from live_service import LiveService, live_service

EXPERIMENT = {
    "key": "clients",
    "model": "ctr",
    "variants": [
        {"name": "float", "version": "stable", "weight": 0.5},
        {"name": "small", "version": "canary", "weight": 0.5},
    ],
    "default": "float",
}
CLIENT = Path(__file__).with_name("Client.java")
WATCHDOG_SECONDS = 120.0

Jdk = Callable[[str, list[tuple[Ask, str]]], list[tuple[str, Answered]]]


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("clients")
    build_artifact(folder / "models", label="stable", compressed=False)
    build_artifact(folder / "models", label="canary")
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    with live_service(folder / "models", folder, experiment=path) as running:
        yield running


@pytest.fixture(scope="package")
def direct(service: LiveService) -> dict[str, Answered]:
    """What a plain client gets, by the name of the request."""
    return {ask.name: comparable(asked(service.http, ask)) for ask in asks()}


@pytest.fixture(scope="package")
def jdk() -> Jdk:
    """Send requests with the client of the JDK: one after another, then all at once."""

    def send(base: str, requests: list[tuple[Ask, str]]) -> list[tuple[str, Answered]]:
        lines = [
            "\t".join(
                [ask.method, ask.path, how, b64encode(ask.body).decode(), *sum(ask.headers.items(), ())]
            )
            for ask, how in requests
        ]
        done = subprocess.run(
            ["java", str(CLIENT), base],
            input="\n".join(lines),
            capture_output=True,
            text=True,
            timeout=WATCHDOG_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        answers = []
        for line in done.stdout.splitlines():
            version, status, content_type, body = line.split("\t")
            answers.append((version, (int(status), content_type, b64decode(body))))
        assert len(answers) == 2 * len(requests)
        return answers

    return send
