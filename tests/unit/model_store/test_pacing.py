"""A paced job rests at its pauses as long as it has been told to; nothing else does."""

import threading
import time

import pytest

from model_store import pacing
from model_store.pacing import is_paced, paced, pause


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(pacing.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def core(monkeypatch) -> list[float]:
    """The seconds that this thread has had of a core, for a test to set."""
    seconds = [10.0]
    monkeypatch.setattr(pacing.time, "thread_time", lambda: seconds[0])
    return seconds


def test_a_pause_lasts_in_proportion_to_the_step_before_it(slept, core):
    with paced(2.0):
        core[0] += 0.25
        pause()
        core[0] += 0.5
        pause()
    assert slept == [0.5, 1.0]


def test_a_pause_after_a_short_step_still_hands_over_the_interpreter(slept, core):
    with paced(2.0):
        core[0] += 0.00001
        pause()
    assert slept == [0.0002]


def test_pauses_sleep_inside_of_a_paced_block_only(slept, core):
    pause()
    assert not is_paced()
    with paced(1.0):
        assert is_paced()
        pause()
        with paced(0.0):
            pause()
        pause()
    pause()
    assert len(slept) == 2


def test_a_job_in_a_hurry_rests_no_more(slept, core):
    hurry = threading.Event()
    with paced(1.0, hurry):
        pause()
        hurry.set()
        pause()
    assert len(slept) == 1


def test_what_was_done_in_an_inner_block_counts_for_the_outer_one(slept, core):
    with paced(1.0):
        with paced(0.0):
            core[0] += 3.0
        pause()
    assert slept == [3.0]


def test_waiting_is_not_work(monkeypatch):
    slept: list[float] = []
    sleep = time.sleep
    with paced(1.0):
        sleep(0.2)
        monkeypatch.setattr(pacing.time, "sleep", slept.append)
        pause()
    assert slept[0] < 0.1


def test_a_block_that_fails_is_over(slept):
    with pytest.raises(KeyError), paced(1.0):
        raise KeyError
    pause()
    assert slept == []


def test_other_threads_are_not_paced(slept):
    with paced(1.0):
        other = threading.Thread(target=pause)
        other.start()
        other.join()
    assert slept == []
