import os

from model_store.names import REQUEST_ID
from service.context import new_request_id


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
