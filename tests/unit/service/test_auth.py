"""The key that fits counts, whatever else a request carries for others; no header of a caller is an internal error."""

import hashlib
from collections.abc import Iterator

import httpx
import pytest
from artifacts import build_artifact
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_service import LiveService, live_service

KEY, OTHER, ODD = "the-key", "another-key", 'pä,ss "w/ 100 % + ß'
Header = tuple[bytes, bytes]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("auth")
    build_artifact(folder / "models", label="stable")
    scopes = {KEY: ["infer"], OTHER: ["metrics"], ODD: ["infer"]}
    keys = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": given} for key, given in scopes.items()
    ]
    with live_service(folder / "models", folder, api_keys=keys) as running:
        yield running


PATHS = [
    ("POST", "/v1/predict"),
    ("POST", "/v2/models/ctr/infer"),
    ("GET", "/v1/models"),
    ("GET", "/v2/models/ctr"),
]


def statuses(service: LiveService, *headers: Header) -> set[int]:
    """Return the answers of direct and other routes: 200 or 422 when the key fits."""
    answers = set()
    for method, path in PATHS:
        content = b'{"instances": [{"ad": "a1"}]}' if path == "/v1/predict" else b"{}"
        response = service.http.request(
            method, path, headers=headers, content=content if method == "POST" else None
        )
        answers.add(200 if response.status_code in (200, 400) else response.status_code)
    return answers


def basic(user: str = "proxy:secret") -> Header:
    return (b"authorization", httpx.BasicAuth(*user.split(":"))._auth_header.encode())


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"the-key")],
        [(b"authorization", b"Bearer the-key")],
        [(b"authorization", b"bearer  the-key")],
        [basic(), (b"x-api-key", b"the-key")],
        [(b"authorization", b"Bearer token-of-a-proxy"), (b"x-api-key", b"the-key")],
        [(b"authorization", b"Bearer the-key"), (b"x-api-key", b"of another service")],
        [(b"x-api-key", b"of another service"), (b"x-api-key", b"the-key")],
        [basic(), (b"authorization", b"Bearer the-key")],
        [(b"authorization", b"Bearer the-key"), basic()],
        [(b"authorization", basic()[1] + b", Bearer the-key")],
        [(b"x-api-key", b"first, the-key")],
        [(b"authorization", b"Bearer"), (b"x-api-key", b"the-key")],
        [(b"authorization", b""), (b"x-api-key", b"the-key")],
        [(b"authorization", b'Digest username="a, b", response="\xff"'), (b"x-api-key", b"the-key")],
        [(b"x-api-key", b"another-key"), (b"authorization", b"Bearer the-key")],
        [(b"x-api-key", ODD.encode())],
        [(b"x-api-key", ODD.encode("latin-1"))],
        [(b"authorization", b"Bearer " + ODD.encode())],
        [(b"authorization", b"Bearer " + ODD.encode("latin-1"))],
    ],
)
def test_the_key_that_fits_counts(service: LiveService, headers: list[Header]) -> None:
    assert statuses(service, *headers) == {200}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        ([basic()], 401),
        ([basic("the-key:the-key")], 401),
        ([(b"authorization", b"the-key")], 401),
        ([(b"authorization", b"Bearer the-key2")], 401),
        ([(b"x-api-key", b"the")], 401),
        ([(b"x-api-key", b"Bearer the-key")], 401),
        ([(b"x-api-key", b"\xff\xfe")], 401),
        ([(b"x-api-key", b"another-key")], 403),
        ([basic(), (b"x-api-key", b"another-key")], 403),
    ],
)
def test_no_other_credential_is_a_key(service: LiveService, headers: list[Header], status: int) -> None:
    assert statuses(service, *headers) == {status}


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"x-api-key"]),
            st.lists(
                st.sampled_from(
                    [b"Bearer", b"Basic", b" ", b",", b";", b'"', b"=", b"\xff", b"\xc3", b"the-", b"%"]
                )
            ).map(b"".join),
        ),
        max_size=4,
    )
)
def test_no_credential_is_an_internal_error(service: LiveService, headers: list[Header]) -> None:
    headers = [(name, value.strip()) for name, value in headers]
    assert service.http.get("/v1/models", headers=headers).status_code == 401
    headers.append((b"x-api-key", b"the-key"))
    assert service.http.get("/v1/models", headers=headers).status_code == 200
