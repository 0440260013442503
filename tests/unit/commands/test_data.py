from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from slimctr.clicklogs import Dataset
from slimctr.commands.data import app
from slimctr.errors import ConfigError, LogFormatError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    rows = [f"{number % 3 == 0:d},u{number % 9},{'' if number % 4 else number}" for number in range(300)]
    path.write_text("\n".join(["label,user,item", *rows, "x,u1,1", ""]))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_prepare_then_describe(log, tmp_path):
    out = tmp_path / "out"
    result = run(
        "prepare",
        log,
        "--format",
        "csv",
        "--out",
        out,
        "--hash",
        "item=50",
        "--required",
        "user",
        "--seed",
        3,
    )
    assert result.exit_code == 0
    assert "1 lines could not be read" in result.stderr
    assert "log.csv, line 302: label 'x'" in result.stderr
    assert Dataset(out).info["split"] == {"by": "hash", "shares": [0.8, 0.1, 0.1], "seed": 3}

    described = run("describe", out)
    assert described.exit_code == 0
    for expected in ("train", "click rate", "categorical hashed", "user", "1 lines refused"):
        assert expected in described.stdout


def test_prepare_synthetic_needs_no_source(tmp_path):
    out = tmp_path / "out"
    result = run(
        *(
            "prepare",
            "--format",
            "synthetic",
            "--rows",
            4_000,
            "--ids",
            500,
            "--click-rate",
            0.1,
            "--out",
            out,
        ),
        *("--split", "0.5,0.25,0.25", "--split-order", "time"),
    )
    assert result.exit_code == 0
    info = Dataset(out).info
    assert [split["rows"] for split in info["splits"].values()] == [2_000, 1_000, 1_000]
    assert info["source"] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--split", "0.8,0.2"], ConfigError, "not three numbers"),
        (["--hash", "item"], ConfigError, "--hash 'item' is not FIELD=ROWS"),
        (["--label", "clicks"], LogFormatError, "looked for 'clicks'"),
        (["--strict"], LogFormatError, "line 302"),
    ],
)
def test_mistakes_are_expected_errors(log, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run("prepare", log, "--format", "csv", "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_a_usage_error(log, tmp_path):
    assert run("prepare", log, "--format", "xml", "--out", tmp_path / "out").exit_code == 2


@pytest.mark.parametrize("command", ["prepare", "download", "describe"])
def test_help_shows_an_example(command):
    assert f"slimctr data {command} " in run(command, "--help").stdout
