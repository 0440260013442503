"""The engine: an artifact scores batches, without torch."""

from slimctr.scoring.digest import encoder_digest
from slimctr.scoring.scorer import Scorer, sigmoid

__all__ = ["Scorer", "encoder_digest", "sigmoid"]
