"""Which paths and methods are answered, and that no link or redirect leaves the address that the client used."""

import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import pytest
from artifacts import build_artifact
from asgi_server import exchange
from live_service import LiveService, live_service

NAMES = {"model": "ctr", "version": "1", "slug": "deadline", "key": "none"}
UNLISTED = ["/", "/dashboard", "/dashboard/static/dashboard.css", "/docs", "/openapi.json", "/v2/logging"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("service")
    build_artifact(folder / "models", label="stable")
    with live_service(folder / "models", folder) as running:
        yield running


@pytest.fixture(scope="module")
def paths(service: LiveService) -> list[str]:
    listed = service.http.get("/openapi.json").json()["paths"]
    return UNLISTED + [re.sub(r"{(\w+)}", lambda name: NAMES[name[1]], path) for path in listed]


def test_head_is_answered_as_get_without_its_body(service: LiveService, paths: list[str]) -> None:
    compared = 0
    for path in paths:
        get, head = service.http.get(path), service.http.head(path)
        if get.status_code != 405:
            assert head.status_code == get.status_code, path
            assert head.headers.get("content-type") == get.headers.get("content-type"), path
            assert head.content == b""
            assert int(head.headers["content-length"]) > 0 or not get.content, path
            compared += 1
    assert compared > 15


def test_head_leaves_the_connection_usable(service: LiveService) -> None:
    local_ports = set()
    for method in ("HEAD", "GET", "HEAD", "GET"):
        response = service.http.request(method, "/livez")
        assert response.status_code == 200
        local_ports.add(response.extensions["network_stream"].get_extra_info("client_addr")[1])
    assert len(local_ports) == 1


def test_every_error_is_a_problem_document(service: LiveService, paths: list[str]) -> None:
    unknown = [
        "/none",
        "/dashboard/static/none",
        "/dashboard/static/%2e%2e%2fapp.py",
        "/v2/none",
        "/problems/none",
    ]
    for path in paths + unknown:
        for method in ("GET", "POST", "PUT"):
            found = service.http.request(method, path, content=b"{", headers={"range": "bytes=9-1"})
            if found.status_code >= 400:
                assert found.headers["content-type"] == "application/problem+json", (method, path)
                assert found.json()["status"] == found.status_code


@pytest.mark.parametrize("asked", ["bytes=0-9", "bytes=9-1", "bytes=99999999-", "bytes=0-1,3-4", "lines=1-2"])
def test_a_file_is_sent_as_a_whole_whatever_range_is_asked_for(service: LiveService, asked: str) -> None:
    for path in ("/dashboard", "/dashboard/static/dashboard.js", "/dashboard/static/plotly.min.js"):
        answer = service.http.get(path, headers={"range": asked})
        assert answer.status_code == 200
        assert answer.content == service.http.get(path).content
        assert "accept-ranges" not in answer.headers


def test_allow_names_the_methods_that_are_answered(service: LiveService, paths: list[str]) -> None:
    for path in paths:
        found = {method: service.http.request(method, path, json={}) for method in METHODS}
        refused = {method for method, response in found.items() if response.status_code == 405}
        allowed = sorted(set(METHODS) - refused)
        for method in refused:
            assert sorted(found[method].headers["allow"].split(", ")) == allowed, (path, method)


def test_a_path_with_a_slash_more_is_unknown_and_not_redirected(
    service: LiveService, paths: list[str]
) -> None:
    for path in paths[1:]:
        for other in (path + "/", path + "//"):
            response = service.http.request("POST", other, content=b"{}", headers={"host": "evil.example"})
            assert response.status_code == 404, other
            assert "location" not in response.headers
            assert response.json()["type"] == "/problems/not-found"


def test_no_link_and_no_redirect_names_a_host_or_leaves_the_path_of_a_proxy(service: LiveService) -> None:
    base = "https://public.example/ctr/"
    headers = {"host": "evil.example", "x-forwarded-host": "evil.example", "x-forwarded-proto": "ftp"}
    for path in ("", "dashboard", "docs", "openapi.json", "problems/deadline"):
        response = service.http.get("/" + path, headers=headers)
        assert "evil" not in response.text + str(response.headers)
        links = re.findall(r'(?:href|src|action)="([^"#]*)"', response.text)
        links += [response.headers["location"]] if "location" in response.headers else []
        if path == "openapi.json":
            links += [server["url"] for server in response.json()["servers"]]
        assert links or path == "problems/deadline"
        for link in links:
            if not link.startswith("data:"):
                target = urlsplit(urljoin(base + path, link))
                assert (target.scheme, target.netloc) == ("https", "public.example"), (path, link)
                assert target.path.startswith("/ctr/"), (path, link)
                assert service.http.get(target.path.removeprefix("/ctr")).status_code in (200, 307), (
                    path,
                    link,
                )


@pytest.mark.parametrize("host", ["[", "a b", "evil.example:99999", "", "\xe9"])
def test_an_odd_host_is_no_fault_of_ours(service: LiveService, host: str) -> None:
    for path in (b"/livez", b"/none", b"/v2/logging", b"/"):
        head = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (path, host.encode("latin-1"))
        [answer] = exchange((service.host, service.port), head)
        assert answer.status in (200, 307, 404, 501)
