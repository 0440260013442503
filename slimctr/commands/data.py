"""`slimctr data`: prepare, download and describe click logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctr.commands.local_paths import Commands

if TYPE_CHECKING:
    from slimctr.clicklogs.prepare import Progress
    from slimctr.features import Field

app = Commands(no_args_is_help=True, rich_markup_mode="rich")


class LogFormatName(StrEnum):
    """The formats of `--format`."""

    libfm = "libfm"
    criteo = "criteo"
    avazu = "avazu"
    csv = "csv"
    parquet = "parquet"
    synthetic = "synthetic"


class SplitOrder(StrEnum):
    """How `--split` cuts one file."""

    hash = "hash"
    time = "time"


@app.command()
def prepare(
    log_format: Annotated[LogFormatName, typer.Option("--format", help="How the log is written.")],
    out: Annotated[Path, typer.Option(help="Directory of the encoded data set.")],
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Directory with train, valid (or dev) and test files, or one file to split; none for synthetic.",
            show_default=False,
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(help="Feature schema (YAML or JSON). Without it every csv column is categorical."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Label column of csv and parquet.", show_default="label, click or clicked"),
    ] = None,
    min_count: Annotated[
        int | None, typer.Option(min=1, help="Training count below which a categorical value gets no row.")
    ] = None,
    hash_field: Annotated[
        list[str] | None,
        typer.Option("--hash", metavar="FIELD=ROWS", help="Hash a field into ROWS rows; repeatable."),
    ] = None,
    required: Annotated[
        str | None, typer.Option(metavar="F1,F2", help="Fields that must have a value.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="TRAIN,VALID,TEST", help="Shares when SOURCE is one file.", show_default="0.8,0.1,0.1"
        ),
    ] = None,
    split_order: Annotated[
        SplitOrder | None,
        typer.Option(
            help="Cut by a hash of row number and --seed, or in file order (time).", show_default="hash"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the split and of the synthetic log.", show_default="0"),
    ] = None,
    vocabulary_of: Annotated[
        Path | None,
        typer.Option(
            metavar="VERSION",
            help="Encode with the schema and vocabulary of a published version (a folder, or STORE/NAME@VERSION), "
            "to evaluate it on this log; one file is all test.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first line that cannot be read.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an encoded data set at --out.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of the synthetic log.", show_default="1,000,000")
    ] = None,
    ids: Annotated[
        int | None,
        typer.Option(
            help="Distinct ids of the synthetic log, up to 100 million.", show_default="Criteo's 33.8 million"
        ),
    ] = None,
    all_ids: Annotated[
        bool,
        typer.Option("--all-ids", help="Give every id of the synthetic log a row, seen in training or not."),
    ] = False,
    click_rate: Annotated[
        float | None, typer.Option(help="Click rate of the synthetic log.", show_default="0.25")
    ] = None,
) -> None:
    """Encode a click log: schema, vocabulary (training values only), Parquet with row ids.

    Example: [bold]slimctr data prepare ./criteo --format criteo --min-count 10 --out ./data/criteo[/bold]
    """
    from slimctr.clicklogs.prepare import prepare as prepare_log
    from slimctr.clicklogs.settings import PrepareSettings
    from slimctr.clicklogs.splits import SplitRule
    from slimctr.clicklogs.synthetic import SyntheticSpec
    from slimctr.errors import ConfigError

    is_synthetic = log_format.value == "synthetic"
    if seed is not None and split_order is SplitOrder.time and not is_synthetic:
        raise ConfigError("--seed mixes rows by hash: with --split-order time it has no effect, leave it out")
    is_cut = split is not None or split_order is not None or (seed is not None and not is_synthetic)
    order = (split_order or SplitOrder.hash).value
    generated = {"rows": rows, "ids": ids, "all_ids": all_ids or None, "click_rate": click_rate}
    given = {key: value for key, value in generated.items() if value is not None}
    if not is_synthetic and given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise ConfigError(f"{option} shapes a generated log: it goes with --format synthetic only")
    settings = PrepareSettings(
        log_format=log_format.value,
        source=source,
        label=label,
        schema=schema,
        min_count=min_count,
        hash_rows=_hash_options(hash_field or []),
        required=() if required is None else _names(required),
        split=SplitRule(_shares(split or "0.8,0.1,0.1"), order, seed or 0)
        if is_cut or is_synthetic
        else None,
        strict=strict,
        synthetic=SyntheticSpec(seed=seed or 0, **given) if is_synthetic else None,
        vocabulary_of=vocabulary_of,
    )
    with _progress() as progress:
        dataset = prepare_log(settings, out, overwrite, progress)
    _report_prepared(dataset.info, out)


class RemoteLogName(StrEnum):
    """The logs that `download` knows."""

    frappe = "frappe"


@app.command()
def download(
    name: Annotated[RemoteLogName, typer.Argument(help="Which public log.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory for its files.")],
    base_url: Annotated[
        str | None,
        typer.Option(help="Another place that serves the same archive.", show_default="the public one"),
    ] = None,
) -> None:
    """Download a public click log, resuming an earlier attempt, and check it against the published checksums.

    Example: [bold]slimctr data download frappe --out ./data/frappe_x1[/bold]
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from slimctr.clicklogs.download import REMOTE_LOGS
    from slimctr.clicklogs.download import download as fetch

    log = REMOTE_LOGS[name.value]
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(log.archive, total=None)
        files = fetch(
            log,
            out,
            base_url,
            progress=lambda done, total: bars.update(task, completed=done, total=total or None),
        )
    console.print(
        f"{', '.join(path.name for path in files)} in {out}, checksums verified. Terms: {log.terms}"
    )
    console.print(f"Next: slimctr data prepare {out} --format csv --out DIR")


@app.command()
def describe(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An encoded data set.", show_default=False)
    ],
) -> None:
    """Show rows, click rates and every field of an encoded data set.

    Example: [bold]slimctr data describe ./data/criteo[/bold]
    """
    from rich.console import Console
    from rich.table import Table

    from slimctr.clicklogs.dataset import Dataset

    dataset = Dataset(directory)
    info = dataset.info
    console = Console()
    console.print(f"{directory}: format {info['format']}, split by {info['split']['by']}")
    splits = Table()
    for heading in ("split", "rows", "clicks", "click rate"):
        splits.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in info["splits"].items():
        splits.add_row(name, f"{split['rows']:,}", f"{split['clicks']:,}", f"{split['click_rate']:.2%}")
    console.print(splits)

    fields = Table()
    for heading in ("field", "kind", "rows", "OOV valid", "OOV test", "missing", "top value"):
        text = heading in ("field", "kind")
        fields.add_column(heading, justify="left" if text else "right", no_wrap=True)
    for field, declared in zip(info["fields"], dataset.schema.fields, strict=True):
        counts = dataset.counts(field["name"])
        fields.add_row(
            field["name"],
            _kind(declared),
            f"{field['rows']:,}",
            _share(field, "valid", "oov"),
            _share(field, "test", "oov"),
            _share(field, "train", "missing"),
            f"{counts.max() / max(counts.sum(), 1):.2%}",
        )
    console.print(fields)
    console.print(
        f"{len(info['fields'])} fields, {sum(dataset.rows_per_field):,} rows in all tables, "
        f"{info['parse_errors']['count']:,} lines refused"
    )


def _kind(field: Field) -> str:
    return " ".join(
        [field.kind, *(["hashed"] if field.hash_rows else []), *(["list"] if field.multivalued else [])]
    )


def _share(field: dict, split: str, what: str) -> str:
    tally = field["splits"][split]
    return f"{tally[what] / tally['values']:.2%}" if tally["values"] else "-"


def _shares(text: str) -> tuple[float, float, float]:
    from slimctr.errors import ConfigError

    try:
        train, valid, test = (float(share) for share in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--split {text!r} is not three numbers such as 0.8,0.1,0.1") from error
    return train, valid, test


def _hash_options(texts: list[str]) -> dict[str, int]:
    from slimctr.errors import ConfigError

    found: dict[str, int] = {}
    for text in texts:
        name, _, rows = text.partition("=")
        if not name or not (rows.isascii() and rows.isdigit()):
            raise ConfigError(f"--hash {text!r} is not FIELD=ROWS, for example --hash device_ip=100000")
        if name in found:
            raise ConfigError(
                f"--hash names field '{name}' twice, with {found[name]} and {rows} rows: keep one"
            )
        found[name] = int(rows)
    return found


def _names(text: str) -> tuple[str, ...]:
    from slimctr.errors import ConfigError

    names = tuple(text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(
            f"--required {text!r} is not a list of distinct fields, for example --required user,item"
        )
    return names


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show a bar per pass with rows and rows per second; gone when nothing is shown (no terminal)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def advance(step: str, rows: int, fraction: float) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=1.0, speed="")
            elapsed = bars.tasks[tasks[step]].elapsed or 0.0
            speed = f"{rows:,} rows, {rows / elapsed:,.0f} rows/s" if rows and elapsed else ""
            bars.update(tasks[step], completed=fraction, speed=speed)

        yield advance


def _report_prepared(info: dict, out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape

    errors = info["parse_errors"]
    console = Console(stderr=True, highlight=False)
    if errors["count"]:
        console.print(f"[yellow]{errors['count']:,} lines could not be read and were left out[/yellow]")
        for example in errors["examples"]:
            console.print(escape(f"  {example['file']}, line {example['line']}: {example['detail']}"))
        if errors["count"] > len(errors["examples"]):
            console.print(
                f"  and {errors['count'] - len(errors['examples']):,} more; --strict stops at the first"
            )
    for warning in info["warnings"]:
        console.print(f"[yellow]warning:[/yellow] {warning}")
    rows = ", ".join(f"{name} {split['rows']:,}" for name, split in info["splits"].items())
    tables = sum(field["rows"] for field in info["fields"])
    console.print(f"{out}: {rows} rows; {len(info['fields'])} fields with {tables:,} table rows in all")
