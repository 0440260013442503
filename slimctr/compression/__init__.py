"""Compression methods, recipes and the report."""

from slimctr.compression.feature_pca import FeaturePcaSettings
from slimctr.compression.method import METHODS, Method, Settings, find_method
from slimctr.compression.ptq import PtqSettings
from slimctr.compression.recipes import RECIPES, Recipe, chain
from slimctr.compression.report import REPORT_FILE, report_table
from slimctr.compression.svd import SvdSettings
from slimctr.compression.verb import compress

__all__ = [
    "METHODS",
    "RECIPES",
    "REPORT_FILE",
    "FeaturePcaSettings",
    "Method",
    "PtqSettings",
    "Recipe",
    "Settings",
    "SvdSettings",
    "chain",
    "compress",
    "find_method",
    "report_table",
]
