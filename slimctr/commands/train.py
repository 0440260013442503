"""`slimctr train`: an encoded data set in, a run directory out."""

from collections.abc import Mapping
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

    from slimctr import quality
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
        run = train_run(resolved, data, out, resume=resume, baseline=True, progress=progress)
    for split, metrics in run.metrics.items():
        figures = "  ".join(
            f"{name} {value:.5f}"
            for name, value in metrics.items()
            if isinstance(value, float) and not name.startswith("lr_") and name != "auc_error"
        )
        console.print(f"{split:5s}  {figures}", highlight=False, soft_wrap=True)
        if "lr_auc" in metrics:
            console.print(f"       {_beside(metrics)}", highlight=False, soft_wrap=True)
    for sentence in quality.warnings(run.metrics):
        console.print(f"warning: {sentence}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"run: {out}", highlight=False, soft_wrap=True)


def _beside(metrics: Mapping[str, float]) -> str:
    """Say how a split was scored by the click rate and by a logistic regression, AUCs with their standard errors."""
    from slimctr import quality

    base = f"{metrics['clicks']:,} clicks in {metrics['rows']:,} rows; their rate has NE 1"
    regression = (
        f"logistic regression  auc {metrics['lr_auc']:.5f}  ne {metrics['lr_ne']:.5f}  "
        f"calibration {metrics['lr_calibration']:.5f}"
    )
    if "auc_error" not in metrics:
        return f"{base}; {regression}"
    gain = quality.told(metrics["lr_auc_gain"], metrics["lr_auc_gain_error"])
    return f"{base}; auc {quality.told(metrics['auc'], metrics['auc_error'])}; {regression}; auc above it by {gain}"
