"""`slimctr` itself: how an expected error ends."""

import sys

import pytest

from slimctr import cli


@pytest.fixture
def fail(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["slimctr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return call


def test_a_long_error_is_one_line(fail, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "40")
    assert fail("data", "describe", tmp_path / ("long" * 20)).startswith("error: ")


def test_an_error_that_quotes_lines_of_a_file_is_one_line(fail, tmp_path):
    (tmp_path / "log.csv").write_text("label,user\n1,u\n")
    schema = tmp_path / "schema.yaml"
    schema.write_text("fields: [{name: user")
    command = ["data", "prepare", tmp_path / "log.csv", "--format", "csv", "--out", tmp_path / "out"]
    assert "schema.yaml" in fail(*command, "--schema", schema)


def test_a_folder_that_cannot_be_made_is_named(fail, tmp_path):
    (tmp_path / "log.csv").write_text("label,user\n1,u\n0,u\n")
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    line = fail("data", "prepare", tmp_path / "log.csv", "--format", "csv", "--out", out)
    assert "file" in line
    assert "Not a directory" in line or "File exists" in line


def test_options_of_a_generated_log_are_refused_for_a_real_one(fail, tmp_path):
    line = fail(
        "data", "prepare", "my.csv", "--format", "csv", "--click-rate", 0.1, "--out", tmp_path / "out"
    )
    assert "--click-rate" in line
    assert "synthetic" in line


def test_a_source_is_refused_where_clicks_are_generated(fail, tmp_path):
    line = fail("data", "prepare", "my.csv", "--format", "synthetic", "--out", tmp_path / "out")
    assert "'my.csv'" in line
