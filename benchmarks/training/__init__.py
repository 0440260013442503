"""Measures what training with default settings gives, beside a logistic regression on the same split."""
