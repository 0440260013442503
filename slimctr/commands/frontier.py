"""`slimctr frontier`: how small a run can be made within a budget."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def frontier(
    run: Annotated[Path, typer.Option(help="Run directory of the original.")],
    out: Annotated[
        Path, typer.Option(help="Folder of the search: trials, variants, report. Made or continued.")
    ],
    budget: Annotated[
        str,
        typer.Option(
            help="What may be lost: auc_drop<=X, logloss_rise<=X, calibration_error<=X, artifact_ratio>=X, "
            "with commas between."
        ),
    ] = "auc_drop<=0.001",
    data: Annotated[
        Path | None, typer.Option(help="Encoded data set of the run; default: where its lineage says.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Chains to try in all, earlier calls included.")
    ] = 40,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes that share the trials, one thread each.")
    ] = 1,
    workers: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="What --jobs counts: processes of this machine, or tasks of a Ray cluster."),
    ] = "processes",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the search.")] = 1,
    publish: Annotated[
        Path | None, typer.Option(help="Publish the recommended variant to this model store.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model name to publish under.")] = None,
    label: Annotated[str | None, typer.Option(help="Label to point to the published version.")] = None,
) -> None:
    """Try compression methods and settings on a run, measure each in the serving engine, recommend the smallest.

    The report is OUT/report.html, its figures OUT/frontier.json. Interrupted with Ctrl-C, the same command goes on
    where it stopped; with more --trials it goes on further.

    Examples: slimctr frontier --run runs/deepfm --budget "auc_drop<=0.001" --out frontier

    slimctr frontier --run runs/deepfm --out frontier --trials 100 --jobs 4 --publish ./models --name ctr
    --label canary

    slimctr frontier --run runs/deepfm --out frontier --trials 100 --jobs 8 --workers ray
    """
    from rich.console import Console
    from rich.table import Table

    from model_store.names import LABEL, MODEL
    from model_store.store import ModelStore
    from slimctr import quality
    from slimctr.errors import ConfigError
    from slimctr.export import publish_run
    from slimctr.frontier.budget import Budget
    from slimctr.frontier.job import find_frontier
    from slimctr.frontier.report import JSON_FILE, PAGE_FILE
    from slimctr.frontier.report import label as told
    from slimctr.frontier.variants import Workshop
    from slimctr.training import load_run

    if (publish is None) != (name is None):
        raise ConfigError("--publish and --name go together: where to publish, and under which model name")
    if name is not None:
        MODEL.check(name)
    if label is not None:
        LABEL.check(label)
    console = Console(highlight=False)
    limits = Budget.parse(budget)
    with console.status("searching") as status:

        def tell(line: str) -> None:
            console.print(line, markup=False, soft_wrap=True)
            status.update(line[:80])

        try:
            found = find_frontier(
                run, limits, out, data=data, trials=trials, jobs=jobs, seed=seed, tell=tell, workers=workers
            )
        except KeyboardInterrupt:
            console.print(f"stopped; the same command goes on from {out}", markup=False)
            raise typer.Exit(130) from None
    table = Table("chain", "artifact", "ratio", "valid AUC", "test AUC", "logloss", "speed at 32")
    whole = found["original"]
    by_key = {variant["key"]: variant for variant in found["variants"]}
    for variant in (whole, *(by_key[key] for key in found["front"])):
        is_chosen = variant["key"] == found["recommended"]
        table.add_row(
            variant["method"] or variant["key"],
            f"{variant['bytes']['artifact']:,}",
            f"{whole['bytes']['artifact'] / variant['bytes']['artifact']:.1f}x",
            f"{variant['valid']['auc']:.5f}",
            f"{variant['test']['auc']:.5f}",
            f"{variant['test']['logloss']:.4f}",
            f"{variant['speed']['speed_ratio']['32']:.2f}x",
            style="green" if is_chosen else None,
        )
    console.print(table)
    for sentence in quality.warnings({split: whole[split] for split in ("valid", "test")}):
        console.print(f"warning: {sentence}", style="yellow", markup=False)
    console.print(f"report: {out / PAGE_FILE}, figures: {out / JSON_FILE}", markup=False)
    if found["recommended"] is None:
        console.print(f"no variant is within {limits}: loosen the budget, or try more --trials", markup=False)
        raise typer.Exit(1)
    console.print(f"recommended within {limits}: {told(by_key[found['recommended']])}", markup=False)
    if publish is not None and name is not None:
        best = Workshop(out, load_run(run), data).variant_run(found["recommended"])
        version = publish_run(best, ModelStore(publish), name, label, data=data)
        console.print(f"published {name}@{version.version} to {publish}", markup=False)
