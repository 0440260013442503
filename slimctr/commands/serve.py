"""`slimctr serve`: the scoring service over a model store."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from slimctr.errors import ConfigError


def serve(
    store: Annotated[Path | None, typer.Option(help="Folder of the model store. [default: models]")] = None,
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

    Every setting may come from a SLIMCTR_... variable, over which the options win; docs/serving.md lists them.

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
    _check_store(settings.store)
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


def _check_store(store: Path) -> None:
    """Raise ConfigError unless the store is a folder that can be listed; it may be empty, and hold models later."""
    try:
        os.scandir(store).close()
    except OSError as error:
        raise ConfigError(
            f"the model store '{store}' cannot be used: {error.strerror}; give the folder that `slimctr publish` "
            "writes to with --store or SLIMCTR_STORE (an empty folder will do until the first model is published)"
        ) from error


def _settings(given: dict[str, Any]) -> Any:
    """Return the settings of arguments and environment; raise ConfigError that names every wrong one."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from service.settings import Settings, is_loopback, unknown_variables

    complaints = unknown_variables(os.environ)
    if complaints:
        raise ConfigError("; ".join(complaints))
    # as the settings read them: names in any case, an empty variable is none
    variables = {name.upper(): text for name, text in os.environ.items() if text}
    host = given.get("host", variables.get("SLIMCTR_HOST", Settings.model_fields["host"].default))
    undecided = "insecure" not in given and "SLIMCTR_INSECURE" not in variables
    if undecided and "SLIMCTR_API_KEYS" not in variables and is_loopback(host):
        Console(stderr=True).print(
            "no API keys: every process of this machine may use the service", style="yellow"
        )
        given = {**given, "insecure": True}
    try:
        return Settings(**given)
    except ValidationError as error:
        complaints = [_complaint(fault, given) for fault in error.errors()]
        raise ConfigError("service settings: " + "; ".join(complaints)) from error
    except SettingsError as error:
        name = str(error).split('"')[1]  # of the field: the rest names classes, and the cause may hold a key
        raise ConfigError(
            f"service settings: {name}: SLIMCTR_{name.upper()} is not JSON, in which lists and objects are given: "
            '["stable"]'
        ) from None


def _complaint(fault: Any, given: dict[str, Any]) -> str:
    """Return what is wrong with a setting, where it was given, and its value unless that may be a secret."""
    place = ".".join(str(part) for part in fault["loc"])
    message: str = fault["msg"].removeprefix("Value error, ")
    if not place:
        return message
    name = str(fault["loc"][0])
    source = f"--{name}" if name in given else f"SLIMCTR_{name.upper()}"
    shown = f"given by {source}" if name in ("api_keys", "state_url") else f"{source} is {fault['input']!r}"
    return f"{message} ({shown})" if message.startswith(place) else f"{place}: {message} ({shown})"
