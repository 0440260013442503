"""nginx in front of the service: as a plain proxy, with the usual blocks, below a path."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from client_requests import Answered, asked, asks, comparable, scored_and_clicked
from live_service import LiveService

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

WEBSOCKET = """proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";"""
SERVERS = {
    "plain": ("/", "proxy_pass http://service;"),
    "keep-alive": ("/", 'proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";'),
    "websocket": ("/", f"proxy_pass http://service; {WEBSOCKET}"),
    "unbuffered": ("/", f"proxy_pass http://service; {WEBSOCKET} proxy_request_buffering off;"),
    "request id": ("/", "proxy_pass http://service; proxy_set_header X-Request-ID $request_id;"),
    "path": ("/ctr/", "proxy_pass http://service/;"),
    "path, websocket": ("/a/b/", f"proxy_pass http://service/; {WEBSOCKET} proxy_set_header Host $host;"),
}
CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 32m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream service {{ server {host}:{port}; keepalive 4; }}
  {servers}
}}
"""
WATCHDOG_SECONDS = 30.0


@pytest.fixture(scope="module")
def bases(service: LiveService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of each server by its name, without a slash at the end."""
    folder = tmp_path_factory.mktemp("nginx")
    found, blocks = {}, ""
    for name, (path, directives) in SERVERS.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        found[name] = f"http://127.0.0.1:{port}{path}".rstrip("/")
        blocks += f"server {{ listen 127.0.0.1:{port}; location {path} {{ {directives} }} }}\n"
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=folder, host=service.host, port=service.port, servers=blocks))
    process = subprocess.Popen(
        [str(NGINX), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)]
    )
    try:
        _wait_for(process, list(found.values()), folder / "error.log")
        yield found
    finally:
        process.terminate()
        process.wait(WATCHDOG_SECONDS)


def _wait_for(process: subprocess.Popen[bytes], urls: list[str], log: Path) -> None:
    deadline = time.monotonic() + WATCHDOG_SECONDS
    for url in urls:
        while True:
            try:
                assert httpx.get(f"{url}/livez").status_code == 200
                break
            except httpx.ConnectError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)


@pytest.mark.parametrize("name", SERVERS)
def test_every_request_is_answered_as_without_a_proxy(
    bases: dict[str, str], direct: dict[str, Answered], name: str
) -> None:
    with httpx.Client(base_url=bases[name], timeout=WATCHDOG_SECONDS) as http:
        for ask in asks():
            for chunked in (False, True):
                assert comparable(asked(http, ask, chunked)) == direct[ask.name], ask.name
        head = http.head("/readyz")
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed")
@pytest.mark.parametrize("name", ["websocket", "unbuffered"])
def test_a_wish_to_upgrade_that_nginx_passes_on_is_ignored(
    bases: dict[str, str], direct: dict[str, Answered], jdk, name: str
) -> None:
    sent = []
    for ask in asks():
        sent += [(ask, "length"), (ask, "chunked")] if ask.body else [(ask, "none")]
    for (ask, how), (_, answered) in zip([*sent, *sent], jdk(bases[name], sent), strict=True):
        assert comparable(answered) == direct[ask.name], (ask.name, how)


@pytest.mark.parametrize("name", SERVERS)
def test_outcomes_join_what_was_scored(bases: dict[str, str], name: str) -> None:
    scored, clicked = scored_and_clicked(re.sub(r"\W+", "-", name))
    with httpx.Client(base_url=bases[name], timeout=WATCHDOG_SECONDS) as http:
        assert asked(http, scored)[0] == 200
        assert json.loads(asked(http, clicked)[2])["joined"] == 1


def test_the_id_of_the_body_names_the_exposure_and_that_of_nginx_the_trace(bases: dict[str, str]) -> None:
    url = bases["request id"]
    body = {"instances": [{"ad": "a1"}], "unit_id": "u1", "request_id": "of-the-body"}
    response = httpx.post(f"{url}/v1/predict", json=body, headers={"X-Request-ID": "of the client"})
    assert response.json()["request_id"] == "of-the-body"
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])
    assert httpx.get(f"{url}/readyz").status_code == 200


@pytest.mark.parametrize("name", ["plain", "path", "path, websocket"])
def test_pages_lead_nowhere_else(bases: dict[str, str], name: str) -> None:
    url = bases[name] + "/"
    with httpx.Client(follow_redirects=True, timeout=WATCHDOG_SECONDS) as http:
        page = http.get(url)
        assert str(page.url) == url + "dashboard"
        for shown in (page, http.get(url + "docs")):
            for link in re.findall(r'(?:href|src)="([^"#:]*)"', shown.text):
                found = http.get(urljoin(str(shown.url), link))
                assert str(found.url).startswith(url), link
                assert found.status_code in (200, 404 if "plotly" in link else 200), link
        document = http.get(url + "openapi.json")
        server = urljoin(str(document.url), document.json()["servers"][0]["url"])
        body = {"instances": [{"ad": "a1"}]}
        assert http.post(server.rstrip("/") + "/v1/predict", json=body).status_code == 200
