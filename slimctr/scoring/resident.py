"""Measures the memory of a version in a fresh process: `python -m slimctr.scoring.resident VERSION_DIR`."""

import ctypes
import gc
import json
import subprocess
import sys
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from slimctr.errors import EngineError
from slimctr.scoring.scorer import Scorer

REQUESTS = 1000
_SMAPS_ROLLUP = Path("/proc/self/smaps_rollup")
_KINDS = {"Rss": "rss_bytes", "Pss": "pss_bytes", "Private_Dirty": "private_dirty_bytes"}


def measure_resident(path: Path) -> dict[str, Any]:
    """Return what `python -m slimctr.scoring.resident` prints for the version directory `path`.

    `resident_bytes` is the growth of the proportional set size from just before the load (libraries imported)
    to after the load, the golden check and 1,000 requests; `private_dirty_bytes` and `rss_bytes` grow over that
    span. Memory that the allocator merely keeps free is given back before each reading: it is the process's, not
    the version's. What the runtime touches of its own code for the first time is part of the growth. `before`
    and `after` are the totals of the process. Raises EngineError when the process fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "slimctr.scoring.resident", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{path}: the resident bytes could not be measured: {reason}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_here(path: Path, requests: int = REQUESTS) -> dict[str, Any]:
    """Load `path` in this process, score `requests` golden rows one at a time, and return the growth."""
    import_module(
        "slimctr.scoring.onnx_session"
    )  # its libraries are not the version's, whichever runs the network
    before = _memory()
    scorer = Scorer.open(path)
    scorer.check_golden()
    scorer.warm_up()
    for row in islice(cycle(range(len(scorer.golden.batch))), requests):
        scorer.logits(scorer.golden.batch.slice(row, row + 1))
    after = _memory()
    return {
        "model": scorer.manifest.model,
        "version": scorer.manifest.version,
        "resident_bytes": after["pss_bytes"] - before["pss_bytes"],
        "private_dirty_bytes": after["private_dirty_bytes"] - before["private_dirty_bytes"],
        "rss_bytes": after["rss_bytes"] - before["rss_bytes"],
        "mapped_bytes": scorer.bytes["mapped"],
        "requests": requests,
        "before": before,
        "after": after,
    }


def _memory() -> dict[str, int]:
    """Return the process totals of the kernel's `smaps_rollup`, in bytes, without free heap."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    values = {}
    for line in _SMAPS_ROLLUP.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in _KINDS:
            values[_KINDS[name]] = int(rest.split()[0]) * 1024
    return values


if __name__ == "__main__":
    print(json.dumps(measure_here(Path(sys.argv[1])), indent=1))
