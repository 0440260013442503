"""Loaded versions: what becomes of their files."""
