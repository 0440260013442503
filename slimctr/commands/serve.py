"""`slimctr serve`: the scoring service over a model store."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from slimctr.errors import ConfigError


def serve(
    store: Annotated[Path, typer.Option(help="Folder of the model store.")] = Path("models"),
    experiment: Annotated[Path | None, typer.Option(help="Experiment file (YAML).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. [default: 8080]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. [default: 1]")] = None,
    insecure: Annotated[
        bool | None,
        typer.Option(
            "--insecure/--secure",
            help="Serve without API keys; loopback addresses only, and the default there when no keys are set.",
        ),
    ] = None,
) -> None:
    """Serve the labeled models of a store over HTTP until SIGTERM or Ctrl-C.

    Every other setting comes from a SLIMCTR_... variable; docs/serving.md lists them.

    Example: slimctr serve --store ./models --experiment experiment.yaml --port 8080
    """
    # numpy would start its linear algebra's threads, which nothing here uses and no fork may find.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given: dict[str, Any] = {
        "store": store,
        "experiment": experiment,
        "host": host,
        "port": port,
        "workers": workers,
        "insecure": insecure,
    }
    settings = _settings({name: value for name, value in given.items() if value is not None})
    if settings.experiment is not None:
        from service.experiments import load_experiment

        load_experiment(settings.experiment)
    ahead = _ahead(settings)
    if settings.workers > 1:
        from service.workers import serve_workers

        raise typer.Exit(serve_workers(settings, ahead))
    from service.experiments.errors import ExperimentError
    from service.server import serve as serve_here

    try:
        serve_here(settings, ahead)
    except ExperimentError as error:
        raise ConfigError(str(error)) from error


def _ahead(settings: Any) -> Any:
    """Return the labeled versions, being verified from now on; None where workers cannot share them."""
    if settings.workers > 1 and settings.intra_op_threads > 1:
        return None  # a session with threads would not survive the fork
    from service.ahead import Ahead

    return Ahead(settings.store)


def _settings(given: dict[str, Any]) -> Any:
    """Return the settings of arguments and environment; raise ConfigError that names every wrong one."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from service.settings import Settings, is_loopback, unknown_variables

    complaints = unknown_variables(os.environ)
    if complaints:
        raise ConfigError("; ".join(complaints))
    host = given.get("host", os.environ.get("SLIMCTR_HOST", "127.0.0.1"))
    undecided = "insecure" not in given and "SLIMCTR_INSECURE" not in os.environ
    if undecided and "SLIMCTR_API_KEYS" not in os.environ and is_loopback(host):
        Console(stderr=True).print(
            "no API keys: every process of this machine may use the service", style="yellow"
        )
        given = {**given, "insecure": True}
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            place = ".".join(str(part) for part in fault["loc"])
            message = fault["msg"].removeprefix("Value error, ")
            lines.append(f"{place}: {message}" if place else message)
        raise ConfigError("service settings: " + "; ".join(lines)) from error
    except SettingsError as error:
        raise ConfigError(f"service settings: {error}; lists and objects are given as JSON") from error
