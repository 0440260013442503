"""Readers of click logs, the synthetic generator, and the encoded data set."""

from slimctr.clicklogs.dataset import Dataset, Split
from slimctr.clicklogs.prepare import prepare
from slimctr.clicklogs.settings import PrepareSettings
from slimctr.clicklogs.splits import SplitRule
from slimctr.clicklogs.synthetic import SyntheticSpec

__all__ = ["Dataset", "PrepareSettings", "Split", "SplitRule", "SyntheticSpec", "prepare"]
