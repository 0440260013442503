"""The offline half of the demo: prepare clicks, train a DeepFM, compress it, publish every variant."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from model_store.local_path import remote_fault
from model_store.store import ModelStore
from slimctr.clicklogs import Dataset, PrepareSettings, prepare
from slimctr.clicklogs.synthetic import SyntheticSpec
from slimctr.compression import compress
from slimctr.errors import ConfigError
from slimctr.export import publish_run
from slimctr.training import RichProgress, TrainConfig, load_run, read_settings, train

ORIGINAL = "original"
MARKER = ".slimctr-demo"
RECIPES = ("rows8", "compact8", "trained4w8")
"""Recipes of `slimctr compress`; each becomes a variant with the recipe's name as its label."""

SYNTHETIC = SyntheticSpec(rows=250_000, ids=100_000, seed=1)


@dataclass(frozen=True)
class Clicks:
    """The clicks of the demo: where they come from and how they are prepared.

    `unit_field` names the field whose value is the unit of the experiment; `training` changes the preset.
    """

    told: str
    model: str
    settings: PrepareSettings
    unit_field: str
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A published version: its label is its name in the demo."""

    name: str
    version: int
    path: Path


def find_clicks() -> Clicks:
    """Return Frappe where a data folder has it (SLIMCTR_DATA, ./data, ../shared/data), else synthetic clicks."""
    roots = [os.environ.get("SLIMCTR_DATA"), "data", "../shared/data"]
    for root in roots:
        if root and (fault := remote_fault(root)):
            raise ConfigError(f"SLIMCTR_DATA {fault}")
        folder = Path(root or "", "frappe_x1", "raw_values")
        if root and folder.is_dir():
            settings = PrepareSettings("csv", folder, required=("user", "item"))
            return Clicks(f"Frappe app clicks from {folder}", "frappe", settings, "user")
    told = f"synthetic clicks ({SYNTHETIC.rows:,} rows): no frappe_x1 under SLIMCTR_DATA, ./data or ../shared/data"
    return Clicks(told, "synthetic", PrepareSettings("synthetic", synthetic=SYNTHETIC), "C1")


def _empty(work: Path) -> None:
    """Make `work` an empty folder marked as the demo's; never delete what the demo did not write."""
    if work.exists() and not (work / MARKER).is_file() and any(work.iterdir()):
        raise ConfigError(f"'{work}' holds files that are not the demo's; choose another --work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARKER).touch()


def build_variants(
    clicks: Clicks, work: Path, store: Path, console: Console, step: Callable[[str], None]
) -> tuple[Dataset, list[Variant]]:
    """Prepare, train, compress by every recipe and publish; a `work` folder of an earlier demo is emptied first.

    Returns the data set and the variants, the original first. `step` is told what begins. Raises ConfigError
    when `work` holds anything else.
    """
    _empty(work)
    step(f"clicks: {clicks.told}")
    with console.status("reading the log twice: values, then rows"):
        dataset = prepare(clicks.settings, work / "data")
    step("training a DeepFM")
    config = TrainConfig.resolve(read_settings("quickstart"), clicks.training)
    with RichProgress(console) as progress:
        runs = {ORIGINAL: train(config, work / "data", work / ORIGINAL, progress=progress)}
    for recipe in RECIPES:
        step(f"compressing by recipe {recipe}")
        with RichProgress(console) as progress:
            compress(load_run(work / ORIGINAL), recipe, {}, None, work / recipe, progress=progress)
        runs[recipe] = load_run(work / recipe)
    step(f"publishing to {store}: every variant is checked against torch first")
    models = ModelStore(store)
    variants = []
    for name, run in runs.items():
        with console.status(name) as status:
            version = publish_run(run, models, clicks.model, name, announce=status.update).version
        variants.append(Variant(name, version, models.path(clicks.model, version)))
    models.set_label(clicks.model, "stable", variants[0].version)
    return dataset, variants
