"""`slimctr quickstart`: the whole product on one screen."""

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    store: Annotated[Path, typer.Option(help="Model store to publish to.")] = Path("./models"),
    work: Annotated[
        Path, typer.Option(help="Working folder of the demo, emptied first when it is one.")
    ] = Path("./quickstart"),
    host: Annotated[str, typer.Option(help="Address to serve on; loopback only.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8080,
    exit_after_table: Annotated[bool, typer.Option("--exit", help="End after the table.")] = False,
) -> None:
    """Prepare clicks, train, compress, publish, serve an experiment, send traffic, print the comparison.

    Example: slimctr quickstart --exit
    """
    import signal
    import sys

    from slimctr.quickstart.demo import run_demo
    from slimctr.quickstart.pipeline import find_clicks

    # Python would end at once on SIGTERM and leave the service behind; an exit stops it first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run_demo(find_clicks(), store, work, host, port, exit_after_table)
