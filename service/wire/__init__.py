"""Bytes to rows and scores to bytes."""
