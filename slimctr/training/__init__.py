"""Trainer, run directory and evaluation."""
