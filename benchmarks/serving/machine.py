"""What a figure depends on besides the code: machine, date, revision, versions."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("fastapi", "uvicorn", "orjson", "numpy", "onnxruntime", "torch")


def describe() -> dict:
    """Return machine, date, git revision and versions."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": f"{os.cpu_count()} vCPU {cpu}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "revision": revision.stdout.strip(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
