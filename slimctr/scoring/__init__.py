"""The engine: an artifact scores batches, without torch."""
