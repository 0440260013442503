"""What a machine is, as every page of results names it."""

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def machine() -> str:
    """Cores and processor of this machine."""
    names = _values("model name")
    return f"{os.cpu_count()} vCPU {names[0] if names else platform.processor()}"


def instructions() -> str:
    """The widest vectors of this processor: AVX-512 or AVX2, else the name of the architecture."""
    flags = " ".join(_values("flags")[:1]).split()
    return "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else platform.machine()


def _values(name: str) -> list[str]:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(name)]
