import signal
import threading
from pathlib import Path

import pytest

from service import server as server_module
from service.app import create_app
from service.server import DrainingServer, build_server, graceful_seconds
from service.settings import Settings


class Timer:
    """Stands in for threading.Timer: fires when the test says so."""

    made: list["Timer"]

    def __init__(self, seconds: float, function: object) -> None:
        self.seconds, self.function, self.daemon, self.started = seconds, function, False, False
        self.made.append(self)

    def start(self) -> None:
        self.started = True


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Timer]:
    Timer.made = []
    monkeypatch.setattr(server_module.threading, "Timer", Timer)
    return Timer.made


def server(tmp_path: Path, drain_delay_s: float) -> DrainingServer:
    settings = Settings(insecure=True, store=tmp_path, drain_delay_s=drain_delay_s)
    return build_server(create_app(settings), settings)


def test_sigterm_drains_before_it_stops(tmp_path: Path, timers: list[Timer]) -> None:
    running = server(tmp_path, 5)
    running.handle_exit(signal.SIGTERM, None)
    assert running._lifecycle.draining
    assert not running.should_exit
    [timer] = timers
    assert (timer.seconds, timer.started, timer.daemon) == (5, True, True)
    timer.function()  # type: ignore[operator]
    assert running.should_exit
    assert not running.force_exit


def test_ctrl_c_stops_at_once_and_a_second_one_does_not_wait(tmp_path: Path, timers: list[Timer]) -> None:
    running = server(tmp_path, 5)
    running.handle_exit(signal.SIGINT, None)
    assert (running.should_exit, running.force_exit, timers) == (True, False, [])
    running.handle_exit(signal.SIGINT, None)
    assert running.force_exit


def test_a_second_signal_ends_the_drain(tmp_path: Path, timers: list[Timer]) -> None:
    running = server(tmp_path, 5)
    running.handle_exit(signal.SIGTERM, None)
    running.handle_exit(signal.SIGTERM, None)
    assert (running.should_exit, running.force_exit) == (True, False)


def test_no_signal_handler_outside_the_main_thread(tmp_path: Path) -> None:
    running = server(tmp_path, 0)
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def capture() -> None:
        with running.capture_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=capture)
    thread.start()
    thread.join()
    assert seen == [before]
    with running.capture_signals():
        assert signal.getsignal(signal.SIGTERM) == running.handle_exit
    assert signal.getsignal(signal.SIGTERM) == before


def test_drain_stop_and_flush_fit_into_the_shutdown_time(tmp_path: Path) -> None:
    settings = Settings(insecure=True, drain_delay_s=5, shutdown_timeout_s=30)
    assert settings.drain_delay_s + graceful_seconds(settings) + server_module.FLUSH_SECONDS == 30
    assert graceful_seconds(Settings(insecure=True, drain_delay_s=5, shutdown_timeout_s=6)) == 1
    config = server(tmp_path, 5).config
    assert config.timeout_graceful_shutdown == 20
