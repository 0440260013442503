"""The whole demo in order: build, serve, send traffic, show."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from slimctr.clicklogs import Dataset
from slimctr.errors import EngineError
from slimctr.quickstart.pipeline import ORIGINAL, Clicks, Variant, build_variants
from slimctr.quickstart.server import refuse_taken_port, running_service
from slimctr.quickstart.table import Line, result_table, served_quality
from slimctr.quickstart.traffic import Client, Row, live_traffic, score_all
from slimctr.scoring import Scorer, sigmoid
from slimctr.scoring.resident import measure_resident

ROWS_PER_REQUEST = 100
EVALUATION_BATCH_ROWS = 1024
SCORE_TOLERANCE = 1e-6
# Columns of the table when the output goes to a file.
LOG_WIDTH = 130


def run_demo(
    clicks: Clicks, store: Path, work: Path, host: str, port: int, exit_after_table: bool
) -> list[Line]:
    """Run the demo and return its table; returns after showing it when `exit_after_table`, else at Ctrl-C.

    Raises ConfigError when the port is taken, EngineError when the service fails or a served score differs
    from the engine's.
    """
    started = time.monotonic()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH)

    def step(told: str) -> None:
        console.print(f"[bold]{time.monotonic() - started:5.0f} s[/bold]  {told}")

    refuse_taken_port(host, port)
    dataset, variants = build_variants(clicks, work, store, console, step)
    candidate = variants[-1]
    experiment = _write_experiment(clicks, candidate, work)
    rows, labels = dataset.raw_test(dataset.info["splits"]["test"]["rows"])
    step(f"service on http://{host}:{port}: {ORIGINAL} against {candidate.name}, which is the shadow too")
    with running_service(store=store, experiment=experiment, state=work, host=host, port=port) as service:
        step(f"{len(rows):,} test rows to every variant, {ROWS_PER_REQUEST} a request, one connection")
        with closing(Client(service.url)) as client:
            lines = [_score(client, clicks.model, variant, dataset, rows, labels) for variant in variants]
            step("live traffic: a request per unit, clicks reported afterwards")
            with _bar("live traffic", len(rows)) as advance:
                served = live_traffic(client, clicks.model, clicks.unit_field, rows, labels, advance)
        shares = ", ".join(f"{name} {count:,} rows" for name, count in sorted(served.items()))
        step(f"served by the experiment: {shares}")
        console.print(result_table(lines, f"{clicks.model}: {len(rows):,} test rows as served"))
        smaller = lines[0].artifact_bytes / lines[-1].artifact_bytes
        console.print(
            f"{candidate.name} is {smaller:.1f}x smaller than {ORIGINAL}, AUC {lines[-1].auc - lines[0].auc:+.5f}; "
            "served scores are those of the engine on every row."
        )
        torch = "with" if service.has_torch() else "without"
        held = service.proportional_bytes() / 1e6
        console.print(
            f"The scoring process holds {held:.0f} MB (PSS) for all {len(variants)} versions, {torch} torch."
        )
        for what, path in (("dashboard", "/dashboard"), ("API docs", "/docs"), ("metrics", "/metrics")):
            console.print(f"{what:10s} {service.url}{path}")
        console.print(f"{'log':10s} {service.log}")
        if not exit_after_table:
            console.print("Serving until Ctrl-C.")
            _wait_for_interrupt()
    return lines


def _write_experiment(clicks: Clicks, candidate: Variant, work: Path) -> Path:
    path = work / "experiment.yaml"
    document = {
        "key": f"{clicks.model}-demo",
        "model": clicks.model,
        "variants": [
            {"name": ORIGINAL, "version": ORIGINAL, "weight": 0.5},
            {"name": candidate.name, "version": candidate.name, "weight": 0.5},
        ],
        "default": ORIGINAL,
        "shadow": {"variant": candidate.name, "percent": 100},
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _score(
    client: Client, model: str, variant: Variant, dataset: Dataset, rows: list[Row], labels: np.ndarray
) -> Line:
    """Score every row over HTTP, compare with the engine on the encoded rows, measure."""
    with _bar(variant.name, len(rows)) as advance:
        served = score_all(client, model, variant.name, rows, ROWS_PER_REQUEST, advance)
    scorer = Scorer.open(variant.path)
    engine = [sigmoid(scorer.logits(part.batch)) for part in dataset.stream("test", EVALUATION_BATCH_ROWS)]
    manifest = scorer.manifest
    scorer.close()
    # The service batches differently, so the last bit of a float32 may differ.
    difference = float(np.abs(np.concatenate(engine)[: len(rows)] - served.scores).max())
    if difference > SCORE_TOLERANCE:
        raise EngineError(f"{variant.name}: a served score differs from the engine's by {difference:.1e}")
    return Line(
        variant.name,
        *served_quality(labels, served.scores),
        manifest.bytes.payload,
        manifest.artifact_bytes,
        measure_resident(variant.path)["resident_bytes"],
        served.percentile_ms(50),
        served.percentile_ms(99),
        served.rows_per_second,
    )


@contextmanager
def _bar(name: str, rows: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(name, total=rows)
        yield lambda count: progress.advance(task, count)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
