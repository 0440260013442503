"""`slimctr compress`: a run in, a smaller run out."""

from pathlib import Path
from typing import Annotated

import typer


def compress(
    run: Annotated[Path, typer.Option(help="Run directory to compress.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    method: Annotated[
        str,
        typer.Option(help="A method such as feature_pca, ham or ptq, a chain such as ham+ptq, or a recipe."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Encoded data set of the run; default: where its lineage says.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting as key=value; in a chain METHOD.key=value. Repeatable."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; default: torch's choice.")
    ] = None,
) -> None:
    """Make a trained or compressed model smaller, train it on briefly, and report what that cost.

    Methods, settings and recipes: docs/compression.md. The report stays in the run as report.json.

    Examples: slimctr compress --run runs/deepfm --method ptq --set bits=4 --out runs/deepfm-int4

    slimctr compress --run runs/deepfm --method feature_pca+ptq --set feature_pca.table_rank=4 --out
    runs/small
    """
    import json

    import torch
    from rich.console import Console

    from slimctr import quality
    from slimctr.compression import REPORT_FILE, report_table
    from slimctr.compression import compress as compress_run
    from slimctr.training import RichProgress, load_run, parse_assignments

    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(highlight=False)
    with RichProgress(console) as progress:
        smaller = compress_run(
            load_run(run),
            method,
            parse_assignments(settings or []),
            data,
            out,
            progress=progress,
            announce=lambda line: console.print(f"{line} ...", markup=False),
        )
    report = smaller.path / REPORT_FILE
    if report.is_file():
        console.print(report_table(json.loads(report.read_text())))
    for sentence in quality.warnings(smaller.metrics):
        console.print(f"warning: {sentence}", style="yellow", markup=False)
    console.print(f"run: {out}", markup=False)
