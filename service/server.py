"""Runs the application in this process under uvicorn, with a drain on SIGTERM."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from service.ahead import Ahead
from service.app import FLUSH_SECONDS, create_app
from service.http.connections import SWEEP_S, Connections
from service.http.protocol import ServiceProtocol
from service.lifecycle import Lifecycle
from service.routes.direct import DirectApp
from service.settings import Settings
from service.telemetry.logs import configure_logging
from slimctr.errors import ConfigError

BACKLOG = 2048
SWEEP_TICKS = round(SWEEP_S / 0.1)

logger = logging.getLogger("slimctr.server")


class DrainingServer(uvicorn.Server):
    """uvicorn, except that SIGTERM first drains: not ready, still serving, then a graceful stop.

    The first SIGINT stops without the drain (a person waits for it), a second signal does not wait for clients.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        connections: Connections,
        drain_delay_s: float,
        on_started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.server_state = self._connections = connections
        self._lifecycle = lifecycle
        self._drain_delay_s = drain_delay_s
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, listen, and tell whoever waits for it."""
        self._connections.limit_descriptors()
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    async def on_tick(self, counter: int) -> bool:
        """Do what is done ten times a second; return whether the server should stop."""
        if counter % SWEEP_TICKS == 0:
            self._connections.sweep()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._lifecycle.draining:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._lifecycle.draining = True
        if sig == signal.SIGTERM and self._drain_delay_s > 0:
            timer = threading.Timer(self._drain_delay_s, self._stop)
            timer.daemon = True
            timer.start()
        else:
            self._stop()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle the signals while serving; unlike uvicorn's own, an orderly stop ends with status 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def _stop(self) -> None:
        self.should_exit = True


def build_server(
    app: DirectApp, settings: Settings, on_started: Callable[[], None] = lambda: None
) -> DrainingServer:
    """Return a server for one process; `run()` or `serve()` it. `on_started` is called once it accepts requests."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=ServiceProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=graceful_seconds(settings),
    )
    connections = Connections(settings, app.refuse)
    return DrainingServer(config, app.state.lifecycle, connections, settings.drain_delay_s, on_started)


def graceful_seconds(settings: Settings) -> int:
    """Return how long running requests may take once the listening socket is closed."""
    return max(1, int(settings.shutdown_timeout_s - settings.drain_delay_s - FLUSH_SECONDS))


@contextmanager
def listening_socket(settings: Settings) -> Generator[socket.socket, None, None]:
    """Bind host and port; raise ConfigError when the system refuses. Port 0 takes a free one.

    Connections wait in its queue from now on, rather than being refused until the application has started.
    """
    with _bound(settings, settings.port) as listener:
        _listen(listener, settings)
        yield listener


@contextmanager
def listening_sockets(settings: Settings) -> Generator[list[socket.socket], None, None]:
    """Bind one socket per worker to the same address, as `listening_socket` does.

    The kernel spreads connections over them by address. On a single socket the worker that wakes first takes most
    connections, and long-lived ones stay with it.
    """
    with _bound(settings, settings.port) as first:  # without sharing: fails when another service has the port
        _listen(first, settings)
        port = first.getsockname()[1]
    with ExitStack() as stack:
        sockets = [stack.enter_context(_bound(settings, port, share=True)) for _ in range(settings.workers)]
        for listener in sockets:
            _listen(listener, settings)
        yield sockets


def _bound(settings: Settings, port: int, share: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((settings.host, port))
    except (OSError, UnicodeError) as error:  # the latter for a name that no host can have
        bound.close()
        raise _unusable(settings, error) from error
    return bound


def _listen(bound: socket.socket, settings: Settings) -> None:
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _unusable(settings, error) from error


def _unusable(settings: Settings, error: OSError | UnicodeError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else f"'{settings.host}' is no name of a host"
    return ConfigError(
        f"cannot listen on {settings.host}, port {settings.port}: {reason}; "
        "choose another host or port, or end the process that has it"
    )


def address_of(listener: socket.socket) -> str:
    """Return the URL that a bound socket answers."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, ahead: Ahead | None = None) -> None:
    """Serve in this process on host and port until a signal ends it; `ahead` is that of `create_app`.

    Raises ConfigError or ExperimentError for an address that cannot be had and an experiment that cannot run.
    """
    configure_logging(settings.log_level)
    with listening_socket(settings) as listener:
        where = {"detail": f"{address_of(listener)} (dashboard: /dashboard, API: /docs)"}
        serve_on(listener, settings, lambda: logger.info("serving", extra=where), ahead)


def serve_on(
    listener: socket.socket,
    settings: Settings,
    on_started: Callable[[], None],
    ahead: Ahead | None = None,
    models_wait_s: float = 0.0,
    workers_folder: Path | None = None,
) -> None:
    """Serve on a bound socket as `serve` does; `on_started` is called once it accepts requests.

    That may be `models_wait_s` after the start, if the labeled versions take so long to load. `workers_folder` is
    that of `Pool`.
    """
    configure_logging(settings.log_level)
    app = create_app(settings, ahead, models_wait_s, workers_folder)
    server = build_server(app, settings, on_started)

    def is_news(record: logging.LogRecord) -> bool:
        # uvicorn logs a refusal of ours as a traceback; the caller gets it as one error.
        return app.state.startup_error is None

    uvicorn_logger = logging.getLogger("uvicorn.error")
    uvicorn_logger.addFilter(is_news)
    try:
        server.run([listener])
    except SystemExit:
        if app.state.startup_error is not None:
            raise app.state.startup_error from None
        raise
    finally:
        uvicorn_logger.removeFilter(is_news)
