"""The engine: an artifact scores batches, without torch."""

from slimctr.scoring.digest import encoder_digest
from slimctr.scoring.golden import Golden, golden_tensors, read_golden
from slimctr.scoring.scorer import Scorer, sigmoid

__all__ = ["Golden", "Scorer", "encoder_digest", "golden_tensors", "read_golden", "sigmoid"]
