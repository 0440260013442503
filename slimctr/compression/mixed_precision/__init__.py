"""What mixed precision is made of: frequency groups, the choice of widths, training at chosen widths, storage."""
