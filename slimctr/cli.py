"""The command line `slimctr`: registers the commands and turns expected errors into one line and exit status 2."""

import errno
import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

import slimctr
from model_store.errors import StoreError
from slimctr.commands import compress, data, evaluate, frontier, models, publish, quickstart, serve, train
from slimctr.commands.local_paths import Commands
from slimctr.errors import SlimctrError

app = Commands(
    help="Make click-through-rate models small, serve them compressed, prove that they are as good.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data", help="Prepare, download and describe click logs.")
app.command()(train.train)
app.command()(compress.compress)
app.command()(frontier.frontier)
app.command()(publish.publish)
app.command()(evaluate.evaluate)
app.add_typer(models.app, name="models", help="List, show, verify, label and remove stored models.")
app.command()(serve.serve)
app.command()(quickstart.quickstart)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"slimctr {slimctr.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Options that stand before every command."""


def main() -> None:
    """Run the command line; expected errors end with one red line and exit status 2.

    So do refusals of the operating system, such as a folder that may not be written or a full disk: what they
    name is the user's.
    """
    # Threads of torch that spin while they wait make training four times slower on a machine that is not idle.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (SlimctrError, StoreError, OSError) as error:
        line = " ".join(part.strip() for part in _reason(error).splitlines())
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/red] {escape(line)}")
        sys.exit(2)


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    reason = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return f"{reason}; make room, then run the same command again" if is_full else reason
