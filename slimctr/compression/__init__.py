"""Compression methods, recipes and the report."""

from slimctr.compression.alpt import AlptSettings
from slimctr.compression.column_controls import MagnitudeSettings, RandomColumnsSettings
from slimctr.compression.feature_pca import FeaturePcaSettings
from slimctr.compression.fine_tune import FineTuneSettings
from slimctr.compression.frequency_rule import FrequencyRuleSettings
from slimctr.compression.ham import HamSettings
from slimctr.compression.hash_qr import HashQrSettings
from slimctr.compression.lpt import LptSettings
from slimctr.compression.lsq_plus import LsqPlusSettings
from slimctr.compression.magnitude_elements import MagnitudeElementsSettings
from slimctr.compression.method import METHODS, Method, Settings, find_method
from slimctr.compression.mpe import MpeSettings
from slimctr.compression.network_ptq import NetworkPtqSettings
from slimctr.compression.ptq import PtqSettings
from slimctr.compression.recalibrate import RecalibrateSettings
from slimctr.compression.recipes import RECIPES, Recipe, chain
from slimctr.compression.report import report_table
from slimctr.compression.row_controls import MagnitudeRowsSettings, RandomRowsSettings
from slimctr.compression.small_dim import SmallDimSettings
from slimctr.compression.svd import SvdSettings
from slimctr.compression.verb import compress
from slimctr.training.run import REPORT_FILE

__all__ = [
    "METHODS",
    "RECIPES",
    "REPORT_FILE",
    "AlptSettings",
    "FeaturePcaSettings",
    "FineTuneSettings",
    "FrequencyRuleSettings",
    "HamSettings",
    "HashQrSettings",
    "LptSettings",
    "LsqPlusSettings",
    "MagnitudeElementsSettings",
    "MagnitudeRowsSettings",
    "MagnitudeSettings",
    "Method",
    "MpeSettings",
    "NetworkPtqSettings",
    "PtqSettings",
    "RandomColumnsSettings",
    "RandomRowsSettings",
    "RecalibrateSettings",
    "Recipe",
    "Settings",
    "SmallDimSettings",
    "SvdSettings",
    "chain",
    "compress",
    "find_method",
    "report_table",
]
