"""What a figure depends on besides the code: machine, date, revision, versions."""

import datetime
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from benchmarks.machine import machine

PACKAGES = ("fastapi", "uvicorn", "orjson", "numpy", "onnxruntime", "torch")


def describe() -> dict:
    """Return machine, date, git revision and versions."""
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "revision": revision.stdout.strip(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def stolen_seconds(cores: Iterable[int]) -> float:
    """Return how long so far the hypervisor kept these cores from running what was ready, in steps of 0.01."""
    lines = dict(line.split(maxsplit=1) for line in Path("/proc/stat").read_text().splitlines())
    return sum(int(lines[f"cpu{core}"].split()[7]) for core in cores) / os.sysconf("SC_CLK_TCK")
