"""`slimctr evaluate`: a stored version scores a split of an encoded data set through the serving engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model_store.manifest import Manifest
    from slimctr.clicklogs import Dataset
    from slimctr.features import Vocabulary

FIGURES = ("auc", "logloss", "ne", "calibration", "ece")


def evaluate(
    model: Annotated[str, typer.Option(help="Version to score: NAME, NAME@VERSION or NAME@LABEL.")],
    data: Annotated[Path, typer.Option(help="Encoded data set, from `slimctr data prepare`.")],
    store: Annotated[
        Path, typer.Option(envvar="SLIMCTR_STORE", help="Root directory of the model store.")
    ] = Path("./models"),
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    batch_rows: Annotated[int, typer.Option(min=1, max=2**24, help="Rows of one call of the engine.")] = 1024,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of the network.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a split with a stored version, as the service would, and print its quality.

    Example: slimctr evaluate --store ./models --model ctr@stable --data data/frappe
    """
    import json

    from rich.console import Console

    from model_store.store import ModelStore
    from slimctr.clicklogs import Dataset
    from slimctr.errors import ConfigError
    from slimctr.scoring import Scorer
    from slimctr.scoring.evaluation import evaluate_rows

    models = ModelStore(store)
    name, version = models.resolve(model)
    dataset = Dataset(data)
    base = base_vocabulary(models.manifest(name, version), dataset)
    if split in dataset.info["splits"] and not dataset.info["splits"][split]["rows"]:
        raise ConfigError(f"the {split} split of {data} has no rows: choose another with --split")
    console = Console(stderr=True)
    with console.status(f"scoring {split} with {name}@{version}"):
        scorer = Scorer.open(models.path(name, version), threads)
        scorer.check_golden()
        scorer.warm_up()
        figures = evaluate_rows(scorer, dataset.stream(split, batch_rows), base)
    result = {"model": name, "version": str(version), "split": split, **figures, "bytes": scorer.bytes}
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{name}@{version} on {split}: {figures['rows']:,} rows, {figures['clicks']:,} clicks")
    typer.echo("  ".join(f"{figure} {figures[figure]:.6f}" for figure in FIGURES))
    speed = f"{figures['rows_per_second']:,.0f} rows/s"
    typer.echo(f"{speed} of lookup and network in batches of {batch_rows}, threads {threads}")


def base_vocabulary(manifest: Manifest, dataset: Dataset) -> Vocabulary | None:
    """Return the vocabulary whose rows the data set holds: None when it is the version's own (`--vocabulary-of`).

    Raises ConfigError unless the version of `manifest` was made of the vocabulary and schema of `dataset`.
    """
    from model_store.artifact import VOCABULARY_FILE
    from slimctr.errors import ConfigError
    from slimctr.features import FeatureSchema
    from slimctr.scoring import encoder_digest

    vocabulary, encoder = encoder_digest(dataset.schema, dataset.path / VOCABULARY_FILE)
    if encoder == manifest.encoder:
        return None
    is_same_vocabulary = manifest.base_vocabulary == vocabulary
    if is_same_vocabulary and FeatureSchema.parse(manifest.features, "features") == dataset.schema:
        return dataset.vocabulary()
    part = "schema" if is_same_vocabulary else "vocabulary"
    raise ConfigError(
        f"{manifest.model}@{manifest.version} was trained with another {part} than that of {dataset.path}: evaluate it "
        "on the data set of its training, or encode this log with `slimctr data prepare --vocabulary-of`"
    )
