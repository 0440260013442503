"""Readers of click logs, the synthetic generator, and the encoded data set."""
