"""From a run to a published artifact."""

from slimctr.export.artifact import Parity, Version, publish_run

__all__ = ["Parity", "Version", "publish_run"]
