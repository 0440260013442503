"""Compressed bodies over HTTP, on every path that reads one: what passes plain passes compressed."""

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator

import httpx
import pytest
from artifacts import build_artifact
from live_service import LiveService, live_service

from service.intake import MAX_EXPANSION

OIP = {
    "inputs": [
        {"name": "sparse_ids", "shape": [1, 4], "datatype": "INT64", "data": [1, 1, 1, 1]},
        {"name": "tags.values", "shape": [1], "datatype": "INT64", "data": [1]},
        {"name": "tags.offsets", "shape": [2], "datatype": "INT64", "data": [0, 1]},
    ]
}
OUTCOMES = {
    "outcomes": [
        {"outcome_id": "o1", "request_id": "r1", "index": 0, "clicked": 1, "occurred_at": 1_700_000_000}
    ]
}
BODIES: dict[str, object] = {
    "/v1/predict": {"instances": [{"ad": "a1"}]},
    "/v2/models/ctr/infer": OIP,
    "/v1/outcomes": OUTCOMES,
    "/v2/repository/index": {"ready": True},
}


def raw_deflate(body: bytes) -> bytes:
    writer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return writer.compress(body) + writer.flush()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("compressed")
    build_artifact(folder / "models", label="stable")
    limits = {"max_body_bytes": 300_000, "max_decompressed_bytes": 2_000_000}
    with live_service(folder / "models", folder, **limits) as running:
        yield running


def post(service: LiveService, path: str, body: bytes, *codings: str) -> httpx.Response:
    headers = [("content-type", "application/json"), *(("content-encoding", coding) for coding in codings)]
    return service.http.post(path, content=body, headers=headers)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("codings", "pack"),
    [
        (["gzip"], gzip.compress),
        (["X-GZip"], gzip.compress),
        (["gzip, identity"], gzip.compress),
        (["identity", "gzip"], gzip.compress),
        (["deflate", "gzip"], lambda body: gzip.compress(zlib.compress(body))),
        (["gzip"], lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:]) + bytes(500)),
        (["deflate"], zlib.compress),
        (["DEFLATE"], raw_deflate),
        (["Identity"], bytes),
        ([""], bytes),
    ],
)
def test_every_coding_on_every_path(
    service: LiveService, path: str, codings: list[str], pack: Callable[[bytes], bytes]
) -> None:
    body = json.dumps(BODIES[path]).encode()
    plain = post(service, path, body)
    packed = post(service, path, pack(body), *codings)
    assert packed.status_code == plain.status_code, packed.text
    if path != "/v1/outcomes":  # where this service, which runs no experiment, refuses both
        assert plain.status_code == 200


@pytest.mark.parametrize("path", BODIES)
def test_a_coding_that_is_not_read_is_415_and_says_which_are(service: LiveService, path: str) -> None:
    refused = post(service, path, b"{}", "gzip", "br")
    assert refused.status_code == 415
    assert refused.headers["accept-encoding"] == "gzip, deflate"


def test_candidates_that_share_a_context_pass_compressed_as_they_do_plain(service: LiveService) -> None:
    body = json.dumps(
        {"context": {"user": "u1"}, "candidates": [{"ad": "a1", "site": "example"}] * 5000}
    ).encode()
    packed = gzip.compress(body, 9)
    assert len(body) > MAX_EXPANSION * len(packed)
    plain, short = post(service, "/v1/predict", body), post(service, "/v1/predict", packed, "gzip")
    assert plain.status_code == short.status_code == 200
    assert plain.json()["scores"] == short.json()["scores"]


def test_a_bomb_is_refused_with_the_setting_that_it_passed(service: LiveService) -> None:
    grown = post(service, "/v1/predict", gzip.compress(b" " * 1_900_000), "gzip")
    assert grown.status_code == 413
    assert "max_body_bytes (300000)" in grown.json()["detail"]
    large = post(service, "/v1/predict", gzip.compress(random.Random(1).randbytes(20_000) * 101), "gzip")
    assert large.status_code == 413
    assert "max_decompressed_bytes (2000000)" in large.json()["detail"]
