"""A run becomes a published artifact."""
