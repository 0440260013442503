"""`slimctr models`: list, show, verify, label and remove stored versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctr.commands.local_paths import Commands

if TYPE_CHECKING:
    from model_store.manifest import Manifest

app = Commands(no_args_is_help=True, rich_markup_mode="rich")

Store = Annotated[Path, typer.Option(envvar="SLIMCTR_STORE", help="Root directory of the model store.")]
Reference = Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@LABEL.")]
DEFAULT_STORE = Path("./models")


@app.command("list")
def list_models(store: Store = DEFAULT_STORE) -> None:
    """List every version with its labels, method and bytes; what cannot be read comes last, as an error.

    Example: slimctr models list --store ./models
    """
    from rich.console import Console
    from rich.table import Column, Table

    from model_store.errors import StoreError
    from model_store.labels import Labels
    from model_store.store import ModelStore

    models = ModelStore(store)
    table = Table(*(Column(title, overflow="fold") for title in ("model", "version", "labels", "method")))
    for column in ("payload bytes", "artifact bytes", "test auc"):
        table.add_column(column, justify="right")
    broken: list[str] = []
    for name in models.models():
        try:
            labels = models.labels(name)
        except StoreError as error:
            broken.append(str(error))
            labels = Labels()
        for version in models.versions(name):
            try:
                manifest = models.manifest(name, version)
            except StoreError as error:
                broken.append(f"{name}@{version} is not readable: {error}")
                continue
            auc = manifest.evaluation.get("test_auc")
            table.add_row(
                *(name, str(version), ", ".join(labels.pointing_to(version)), _method(manifest)),
                *(f"{manifest.bytes.payload:,}", f"{manifest.artifact_bytes:,}"),
                "" if auc is None else f"{auc:.6f}",
            )
    if table.row_count == 0 and not broken:
        typer.echo(f"{store} holds no model; `slimctr publish` adds one")
        return
    Console().print(table)
    if broken:
        raise StoreError("; ".join(broken))


@app.command()
def show(
    reference: Reference,
    store: Store = DEFAULT_STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.")] = False,
) -> None:
    """Show one version: method, bytes, tables, quality and fidelity.

    Example: slimctr models show ctr@stable --store ./models
    """
    from rich.console import Console
    from rich.table import Table

    from model_store.store import ModelStore
    from slimctr import quality

    models = ModelStore(store)
    name, version = models.resolve(reference)
    manifest = models.manifest(name, version)
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    facts = {
        "version": f"{name}@{version}",
        "labels": ", ".join(models.labels(name).pointing_to(version)) or "none",
        "created": manifest.created,
        "method": _method(manifest),
        "payload": _bytes(manifest.bytes.payload, manifest.bytes.original_payload),
        "artifact": _bytes(manifest.artifact_bytes, manifest.bytes.original_artifact),
        "network": f"width {manifest.network.width}, opset {manifest.network.opset}",
        "evaluation": _figures(manifest.evaluation),
        "fidelity": _figures(manifest.fidelity),
        "encoder": manifest.encoder,
        "sealed": "yes" if models.is_sealed(name, version) else "no (slimctr models verify --seal)",
    }
    typer.echo("\n".join(f"{key:11s} {value}" for key, value in facts.items()))
    for sentence in quality.warnings(quality.figures_by_split(manifest.evaluation)):
        typer.echo(f"warning     {sentence}")
    table = Table("field", "role", "codec", "bits (rows)")
    for column in ("rows", "dim"):
        table.add_column(column, justify="right")
    for stored in manifest.tables:
        bits = ", ".join(f"{segment.bits} ({segment.rows:,})" for segment in stored.segments)
        codec = stored.codec if stored.layout is None else f"{stored.codec} {stored.layout}"
        table.add_row(stored.field, stored.role, codec, bits, f"{stored.rows:,}", str(stored.dim))
    Console().print(table)


@app.command()
def verify(
    reference: Annotated[
        str | None, typer.Argument(help="NAME, NAME@VERSION or NAME@LABEL; every version without it.")
    ] = None,
    store: Store = DEFAULT_STORE,
    seal: Annotated[
        bool, typer.Option("--seal", help="Seal versions without a seal that pass: their manifest is right.")
    ] = False,
) -> None:
    """Check files, seal, digests of the encoder, golden values and scores; one line a version, status 1 when one fails.

    A version from before seals or golden values existed, or copied without its seal, passes, and the line says what
    could not be checked. A store without any version is an error.

    Example: slimctr models verify ctr@7 --store ./models
    """
    from model_store.artifact import GOLDEN_VALUES_FILE
    from model_store.errors import StoreError
    from model_store.seal import SEAL_SUFFIX
    from model_store.store import ModelStore
    from slimctr.errors import EngineError
    from slimctr.scoring import Scorer

    models = ModelStore(store)
    if reference is not None:
        chosen = [models.resolve(reference)]
    else:
        chosen = [(name, version) for name in models.models() for version in models.versions(name)]
        if not chosen:
            raise StoreError(
                f"{store} holds no model, so nothing was verified; give the root of a store with --store"
            )
    failures = 0
    for name, version in chosen:
        try:
            with models.open(name, version) as artifact:
                scorer = Scorer.of(artifact)
            difference = scorer.check_golden()
            scorer.close()
            unchecked = []
            if seal:
                models.seal(name, version)
            elif not artifact.is_sealed:
                unchecked.append(
                    f"not sealed, an edited manifest would pass (copy {version}{SEAL_SUFFIX} too, or use --seal)"
                )
            if GOLDEN_VALUES_FILE not in artifact.manifest.files:
                unchecked.append("without golden values (publish again to have them)")
        except Exception as problem:  # whatever a damaged version provokes, the others are verified
            failures += 1
            expected = isinstance(problem, StoreError | EngineError | OSError)
            kind = "" if expected else f"{type(problem).__name__}: "
            typer.echo(f"{name}@{version}: FAILED: {kind}{' '.join(str(problem).split())}")
        else:
            typer.echo("; ".join([f"{name}@{version}: ok, golden rows within {difference:.2g}", *unchecked]))
    if failures:
        raise typer.Exit(1)


@app.command()
def label(
    reference: Reference,
    label: Annotated[str, typer.Argument(help="Name of the label, for example stable.")],
    store: Store = DEFAULT_STORE,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the label instead.")] = False,
    expected_revision: Annotated[
        int | None, typer.Option(help="Refuse unless the labels are at this revision.")
    ] = None,
) -> None:
    """Point a label to a version, or remove it; a running service follows.

    Example: slimctr models label ctr@7 stable --store ./models
    """
    from model_store.store import ModelStore

    models = ModelStore(store)
    name, version = models.resolve(reference)
    if remove:
        labels = models.remove_label(name, label, expected_revision)
        typer.echo(f"{name}: label {label} removed, revision {labels.revision}")
        return
    labels = models.set_label(name, label, version, expected_revision)
    typer.echo(f"{name}: label {label} → {version}, revision {labels.revision}")


@app.command()
def remove(
    reference: Annotated[str, typer.Argument(help="NAME@VERSION, with the number of the version.")],
    store: Store = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version for ever; refused while a label points to it.

    Example: slimctr models remove ctr@7 --store ./models --yes
    """
    from model_store.store import ModelStore

    name, _, number = reference.partition("@")
    if not number.isdecimal():
        raise typer.BadParameter("name the version to delete by its number: NAME@VERSION")
    models = ModelStore(store)
    name, version = models.resolve(reference)
    if not yes:
        typer.confirm(f"Delete {name}@{version} from {store}?", abort=True)
    models.remove(name, version)
    typer.echo(f"{name}@{version} removed")


def _method(manifest: Manifest) -> str:
    return "+".join(str(step.get("method", "?")) for step in manifest.method) or "float"


def _bytes(size: int, original: int | None) -> str:
    ratio = f", {original / size:.2f} times smaller than the original" if original and size else ""
    return f"{size:,} bytes{ratio}"


def _figures(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.6g}" for name, value in figures.items()) or "none"
