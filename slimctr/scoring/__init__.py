"""The engine: an artifact scores batches, without torch."""

from slimctr.native.scores import probabilities, sigmoid
from slimctr.scoring.digest import encoder_digest
from slimctr.scoring.golden import Golden, golden_tensors, read_golden
from slimctr.scoring.scorer import Scorer

__all__ = ["Golden", "Scorer", "encoder_digest", "golden_tensors", "probabilities", "read_golden", "sigmoid"]
