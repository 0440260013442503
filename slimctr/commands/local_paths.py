"""The commands of a command line whose paths all lie on this machine."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from model_store.local_path import remote_fault
from slimctr.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])


class Commands(typer.Typer):
    """A typer application whose commands refuse a URL such as `s3://bucket/models` for any path, before they run."""

    def command(self, *arguments: Any, **settings: Any) -> Callable[[Function], Function]:
        """Register a command as `typer.Typer.command` does. Every `Path` it takes is checked."""
        register = super().command(*arguments, **settings)

        def checked(function: Function) -> Function:
            register(_with_local_paths(function))
            return function

        return checked


def _with_local_paths(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(**values: Any) -> Any:
        for name, value in values.items():
            if isinstance(value, Path) and (fault := remote_fault(value)):
                raise ConfigError(f"{_spelling(function, name)} {fault}")
        return function(**values)

    return call


def _spelling(function: Callable[..., Any], name: str) -> str:
    """Return a parameter as it is written on the command line: `--out`, or `DIR` for an argument."""
    annotation = get_type_hints(function, include_extras=True)[name]
    infos = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    info = next(iter(infos), inspect.signature(function).parameters[name].default)
    if isinstance(info, ArgumentInfo):
        return str(info.metavar or name.upper())
    # typer takes the first name of an annotated option for its default, until the command is built
    declared = (str(getattr(info, "default", "")), *(getattr(info, "param_decls", None) or ()))
    return next((text for text in declared if text.startswith("--")), f"--{name.replace('_', '-')}")
