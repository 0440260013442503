import asyncio
import gc
import os
import time
import weakref

from model_store.names import REQUEST_ID
from service.context import ContextMiddleware, new_request_id
from service.errors import BadJson
from service.lifecycle import Lifecycle
from service.telemetry.metrics import Metrics
from service.wire.decoder import Decoder


def test_request_ids_are_128_bits_and_never_repeat():
    ids = [new_request_id() for _ in range(1000)]
    assert all(REQUEST_ID.fits(one) and len(one) == 32 for one in ids)
    assert len(set(ids)) == 1000


def test_a_forked_process_draws_ids_of_its_own():
    new_request_id()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    of_child = os.read(read_end, 32).decode()
    assert of_child != new_request_id()
    assert len(of_child) == 32
    os.close(read_end)
    os.close(write_end)


class Body:
    """Stands for the bytes of a request, whose end can be seen."""


def test_a_refused_request_holds_nothing_that_only_a_collection_would_free():
    decoder, bodies = Decoder(), []

    def refuse(body):
        raise BadJson("no JSON") from ValueError("at byte 1")

    async def application(scope, receive, send):
        body = Body()
        bodies.append(weakref.ref(body))
        await decoder.run("decode", lambda: refuse(body), time.monotonic() + 60)

    async def send(message):
        sent.append(message)

    sent = []
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "headers": []}
    gc.disable()
    try:
        asyncio.run(ContextMiddleware(application, Metrics(), Lifecycle())(scope, None, send))
        assert sent[0]["status"] == 400
        assert [body() for body in bodies] == [None]
    finally:
        gc.enable()
        decoder.close()
