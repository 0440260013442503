import os
import signal
import time
from pathlib import Path

import pytest

from slimctr.commands.quickstart import quickstart


@pytest.fixture
def default_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_unwinds_the_demo_so_that_its_service_stops(tmp_path, monkeypatch, default_handler):
    unwound = []

    def demo(*arguments: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound.append(arguments)

    monkeypatch.setattr("slimctr.quickstart.demo.run_demo", demo)
    with pytest.raises(SystemExit) as ended:
        quickstart(Path(tmp_path), Path(tmp_path), "127.0.0.1", 8080, True)
    assert ended.value.code == 128 + signal.SIGTERM
    assert len(unwound) == 1
