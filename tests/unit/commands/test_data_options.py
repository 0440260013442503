"""Every option of `slimctr data` has an effect on every log that takes it, and is refused in a sentence elsewhere."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from slimctr.clicklogs.avazu import CELLS
from slimctr.commands.data import app
from slimctr.errors import ConfigError

pytestmark = pytest.mark.slow  # prepares logs with every option

ROWS = 60
SUFFIXES = {"csv": "csv", "parquet": "parquet", "criteo": "txt", "avazu": "csv", "libfm": "libfm"}
FIELDS = {"csv": "user", "parquet": "user", "criteo": "C1", "avazu": "C1", "libfm": "f1", "synthetic": "C1"}
PLACES = [*((form, place) for form in SUFFIXES for place in ("file", "folder")), ("synthetic", "nothing")]
EVERYWHERE = set(PLACES)
FILES = {(form, place) for form, place in PLACES if place != "folder"}
NAMED = {(form, place) for form, place in PLACES if form in ("csv", "parquet")}
GENERATED = {("synthetic", "nothing")}

TAKEN = {
    "--schema": EVERYWHERE,
    "--label": NAMED,
    "--min-count": EVERYWHERE,
    "--hash": EVERYWHERE,
    "--required": EVERYWHERE,
    "--split": FILES,
    "--split-order": FILES,
    "--seed": FILES,
    "--strict": EVERYWHERE - GENERATED,
    "--overwrite": EVERYWHERE,
    "--rows": GENERATED,
    "--ids": GENERATED,
    "--all-ids": GENERATED,
    "--click-rate": GENERATED,
}
NEEDED = {"--format", "--out", "--vocabulary-of"}


def names(command: str) -> set[str]:
    parameters = typer.main.get_command(app).commands[command].params
    return {parameter.opts[0] for parameter in parameters} - {"--help"}


def write_file(path: Path, form: str) -> None:
    rows = [(number % 2, number % 7) for number in range(ROWS)]
    if form == "parquet":
        pq.write_table(
            pa.table({"clicked": [row[0] for row in rows], "user": [row[1] for row in rows]}), path
        )
        return
    lines = {
        "csv": ["clicked,user", *(f"{label},u{user}" for label, user in rows)],
        "criteo": ["\t".join([str(label), *["1"] * 13, *[f"c{user}"] * 26]) for label, user in rows],
        "avazu": [
            ",".join([str(user), str(label), "14102100", *[f"c{user}"] * (len(CELLS) - 3)])
            for label, user in rows
        ],
        "libfm": [f"{label} {user}:1 3:1" for label, user in rows],
    }[form]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("logs")
    for form, suffix in SUFFIXES.items():
        write_file(root / f"{form}.{suffix}", form)
        (root / form).mkdir()
        for split in ("train", "valid", "test"):
            write_file(root / form / f"{split}.{suffix}", form)
    for form, field in FIELDS.items():
        (root / f"{form}.yaml").write_text(f"fields: [{{name: {field}, kind: categorical}}]")
    return root


def prepare(logs: Path, form: str, place: str, out: Path, *options: str) -> Result:
    sources = {"file": [logs / f"{form}.{SUFFIXES.get(form)}"], "folder": [logs / form], "nothing": []}
    given = [*sources[place], "--format", form, "--out", out, *options]
    for name, value in {"--rows": "200", "--ids": "300"}.items():
        if form == "synthetic" and name not in options:
            given += [name, value]
    return CliRunner().invoke(app, ["prepare", *map(str, given)], catch_exceptions=False)


def value_of(option: str, form: str, logs: Path) -> list[str]:
    field = FIELDS[form]
    values = {
        "--schema": str(logs / f"{form}.yaml"),
        "--label": "clicked",
        "--min-count": "2",
        "--hash": f"{field}=10",
        "--required": field,
        "--split": "0.5,0.25,0.25",
        "--split-order": "time",
        "--seed": "3",
        "--rows": "150",
        "--ids": "200",
        "--click-rate": "0.5",
    }
    return [values[option]] if option in values else []


def test_the_table_holds_every_option():
    assert names("prepare") == {*TAKEN, *NEEDED, "source"}
    assert names("describe") == {"directory"}
    assert names("download") == {"name", "--out", "--base-url"}


@pytest.mark.parametrize("option", sorted(TAKEN))
def test_an_option_is_taken_or_refused_by_name(logs, tmp_path, option):
    for form, place in PLACES:
        arguments = [option, *value_of(option, form, logs)]
        out = tmp_path / f"{form}-{place}"
        if (form, place) in TAKEN[option]:
            assert prepare(logs, form, place, out, *arguments).exit_code == 0
            assert (out / "dataset.json").is_file()
        else:
            with pytest.raises(ConfigError, match=option):
                prepare(logs, form, place, out, *arguments)
            assert not out.exists()


@pytest.mark.parametrize("option", ["--schema", "--min-count", "--hash", "--required", "--all-ids"])
def test_what_shapes_a_vocabulary_is_refused_beside_a_published_one(logs, tmp_path, option):
    form, place = ("synthetic", "nothing") if option == "--all-ids" else ("csv", "file")
    arguments = [option, *value_of(option, form, logs), "--vocabulary-of", "models/ctr"]
    with pytest.raises(ConfigError, match=f"{option} shapes a new vocabulary"):
        prepare(logs, form, place, tmp_path / "out", *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hash", "user=10", "--hash", "user=20"], "names field 'user' twice, with 10 and 20 rows"),
        (["--hash", "user=10", "--hash", "user=10"], "twice"),
        (["--hash", "user=٣"], "is not FIELD=ROWS"),
        (["--hash", "town=10"], "no field town"),
        (["--required", "town"], "no field town"),
        (["--required", ""], "is not a list of distinct fields"),
        (["--required", "user,"], "is not a list of distinct fields"),
        (["--required", "user,user"], "is not a list of distinct fields"),
        (["--min-count", "2", "--hash", "user=10"], "--min-count has no effect"),
        (["--split-order", "time", "--seed", "1"], "--seed mixes rows by hash"),
    ],
)
def test_options_without_effect_are_refused_in_a_sentence(logs, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        prepare(logs, "csv", "file", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_every_id_needs_no_count(logs, tmp_path):
    with pytest.raises(ConfigError, match="--min-count has no effect"):
        prepare(logs, "synthetic", "nothing", tmp_path / "out", "--all-ids", "--min-count", "2")


def test_a_generated_log_has_no_source(logs, tmp_path):
    with pytest.raises(ConfigError, match="leave the SOURCE"):
        prepare(logs, "synthetic", "file", tmp_path / "out")
