"""What low-precision training is made of: rounding, row optimizers, learned steps, start and end of a table."""
