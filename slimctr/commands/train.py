"""`slimctr train`: an encoded data set in, a run directory out."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path, typer.Option(help="Encoded data set, from `slimctr data prepare`.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    network: Annotated[
        str | None,
        typer.Option(help="Network: dnn, deepfm, dcn, dcnv2, ipnn, autoint, nfm, fibinet, gdcn or xdeepfm."),
    ] = None,
    config: Annotated[
        str,
        typer.Option(
            help="YAML file of settings, or the name of a preset (see docs/training.md); "
            "auto: settings for the size of the log."
        ),
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting as key=value; stands above --config. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run in --out.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; default: torch's choice.")
    ] = None,
) -> None:
    """Train a click model and evaluate it on validation and test rows.

    Example: slimctr train --data data/mine --network dcnv2 --out runs/dcnv2 --set seed=2
    """
    import torch
    from rich.console import Console

    from slimctr.clicklogs import Dataset
    from slimctr.training import RichProgress, TrainConfig, parse_assignments, read_settings
    from slimctr.training import train as train_run
    from slimctr.training.auto import AUTO, auto_settings

    if threads is not None:
        torch.set_num_threads(threads)
    resolved = TrainConfig.resolve(
        auto_settings(Dataset(data)) if config == AUTO else read_settings(config),
        {"network": network} if network else {},
        parse_assignments(settings or []),
    )
    console = Console()
    with RichProgress(console) as progress:
        run = train_run(resolved, data, out, resume=resume, progress=progress)
    for split, metrics in run.metrics.items():
        figures = "  ".join(
            f"{name} {value:.5f}" for name, value in metrics.items() if isinstance(value, float)
        )
        console.print(f"{split:5s}  {figures}", highlight=False, soft_wrap=True)
    console.print(f"run: {out}", highlight=False, soft_wrap=True)
