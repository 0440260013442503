"""What a training takes of memory and of disk, compared with what there is before its first epoch."""

import shutil
from pathlib import Path

import torch

from slimctr.errors import ConfigError
from slimctr.networks import ModelSpec, build_model
from slimctr.training.config import TrainConfig

MEMORY_COPIES = 5
"""Of the weights: the model, its gradient, two moments of Adam, the best epoch."""
DISK_COPIES = 9
"""Of the weights: two checkpoints of four each while one takes the place of the other, and the run."""


def require_room(spec: ModelSpec, config: TrainConfig, rows: int, out: Path) -> None:
    """Raise ConfigError when a training on `rows` rows surely takes more memory or disk than is free."""
    weights = weight_bytes(spec)
    widths = sum(layer.inputs + layer.outputs for layer in spec.layers)
    memory = MEMORY_COPIES * weights + 4 * min(rows, config.batch_rows) * widths
    if (free := free_memory()) is not None and memory > free:
        raise ConfigError(
            f"this training takes {_told(memory)} of memory and {_told(free)} are free: lower dim (now {config.dim}), "
            f"batch_rows (now {config.batch_rows}) or the widths in params, or list fewer values (--min-count)"
        )
    disk = DISK_COPIES * weights
    folder = next(place for place in (out, *out.absolute().parents) if place.is_dir())
    if disk > (free := shutil.disk_usage(folder).free):
        raise ConfigError(
            f"checkpoints and weights of this training take {_told(disk)} of disk and {_told(free)} are free at "
            f"'{out}': make room, choose another --out, or lower dim (now {config.dim})"
        )


def weight_bytes(spec: ModelSpec) -> int:
    """Return the bytes of parameters and buffers of a model, without making it."""
    with torch.device("meta"):
        model = build_model(spec)
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def free_memory() -> int | None:
    """Return the bytes that this process may still take, of the machine or of its container; None if unknown."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control groups, or no limit
        return free
    return min(free, max(limit - used, 0))


def _told(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
