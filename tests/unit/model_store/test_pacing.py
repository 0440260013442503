"""A paced job sleeps at its pauses; nothing else does."""

import threading

import pytest

from model_store import pacing
from model_store.pacing import paced, pause


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(pacing.time, "sleep", seconds.append)
    return seconds


def test_pauses_sleep_inside_of_a_paced_block_only(slept):
    pause()
    with paced(0.25):
        pause()
        with paced(0.0):
            pause()
        pause()
    pause()
    assert slept == [0.25, 0.25]


def test_a_block_that_fails_is_over(slept):
    with pytest.raises(KeyError), paced(0.25):
        raise KeyError
    pause()
    assert slept == []


def test_other_threads_are_not_paced(slept):
    with paced(0.25):
        other = threading.Thread(target=pause)
        other.start()
        other.join()
    assert slept == []
