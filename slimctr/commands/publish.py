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
) -> None:
    """Publish a run as the next version of a model, once the serving engine scores exactly like it.

    Example: slimctr publish --run runs/small --store ./models --name deepfm --label canary
    """
    from rich.console import Console
    from rich.table import Column, Table

    from model_store.store import ModelStore
    from slimctr.export import publish_run
    from slimctr.training import load_run

    console = Console(highlight=False)
    with console.status("loading the run") as status:
        version = publish_run(
            load_run(run), ModelStore(store), name, label, data=data, announce=status.update
        )
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
