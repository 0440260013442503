"""`slimctr publish`: a run in, an immutable version in the store out."""

from pathlib import Path
from typing import Annotated

import typer


def publish(
    run: Annotated[Path, typer.Option(help="Run directory, trained or compressed.")],
    store: Annotated[Path, typer.Option(help="Root directory of the model store.")],
    name: Annotated[str, typer.Option(help="Model name; the version number is the next one.")],
    label: Annotated[
        str | None, typer.Option(help="Label to point to the new version, such as stable.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Encoded data set of the run; default: where its lineage says.")
    ] = None,
    allow_uncalibrated: Annotated[
        bool, typer.Option("--allow-uncalibrated", help="Publish a model whose probabilities are wrong.")
    ] = False,
) -> None:
    """Publish a run as the next version of a model, once the serving engine scores exactly like it.

    A model whose NE is 1 or more, or whose calibration is outside 0.8 to 1.25, is refused.

    Example: slimctr publish --run runs/small --store ./models --name deepfm --label canary
    """
    from rich.console import Console
    from rich.table import Column, Table

    from model_store.store import ModelStore
    from slimctr import quality
    from slimctr.errors import ExportError
    from slimctr.export import publish_run
    from slimctr.training import load_run

    console = Console(highlight=False)
    with console.status("loading the run") as status:
        loaded = load_run(run)
        if (reasons := quality.unsound(loaded.metrics)) and not allow_uncalibrated:
            raise ExportError(
                f"'{run}' is not published, its probabilities are wrong. {'; '.join(reasons)}. Train it otherwise, add "
                "the method recalibrate, or publish it all the same with --allow-uncalibrated"
            )
        version = publish_run(loaded, ModelStore(store), name, label, data=data, announce=status.update)
    for sentence in quality.warnings(loaded.metrics):
        console.print(f"warning: {sentence}", style="yellow", markup=False)
    sizes, artifact = version.manifest.bytes, version.manifest.artifact_bytes
    console.print(f"{name}@{version.version}" + (f" = {name}@{label}" if label else ""), markup=False)
    table = Table(
        "bytes", Column("here", justify="right"), Column("float original", justify="right"), "ratio"
    )
    for kind, here, original in (
        ("payload", sizes.payload, sizes.original_payload),
        ("artifact", artifact, sizes.original_artifact),
    ):
        table.add_row(kind, f"{here:,}", f"{original:,}", f"{original / here:.2f}")
    for component, size in sizes.artifact_by_component.items():
        table.add_row(f"  {component}", f"{size:,}")
    console.print(table)
    parity = version.parity
    console.print(
        f"engine against torch, largest |Δlogit|: golden rows {parity.golden_logit:.1e}, "
        f"{parity.rows:,} validation rows {parity.logit:.1e}"
    )
