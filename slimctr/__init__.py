"""slimctr makes click-through-rate models small, serves them compressed, and proves that they are as good."""

__version__ = "0.1.0"
