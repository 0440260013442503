"""Readers of click logs, the synthetic generator, and the encoded data set."""

from slimctr.clicklogs.dataset import Dataset, Split
from slimctr.clicklogs.prepare import PrepareSettings, prepare
from slimctr.clicklogs.splits import SplitRule
from slimctr.clicklogs.synthetic import SyntheticSpec

__all__ = ["Dataset", "PrepareSettings", "Split", "SplitRule", "SyntheticSpec", "prepare"]
