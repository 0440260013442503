"""Learning rates as pure functions of the position in training."""

import math


def plateau_rate(peak: float, decay: float, epochs_without_gain: int) -> float:
    """Return the peak rate times `decay` for every epoch so far that brought no gain."""
    return peak * decay**epochs_without_gain


def one_cycle_rate(peak: float, warmup_share: float, progress: float) -> float:
    """Return the rate at `progress` (0 to 1) of training: linear rise to the peak, then half a cosine.

    The rise starts at a tenth of the peak (a form of the one-cycle policy, arXiv 1708.07120).
    """
    if progress < warmup_share:
        return peak * (0.1 + 0.9 * progress / warmup_share)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup_share) / (1 - warmup_share)))
