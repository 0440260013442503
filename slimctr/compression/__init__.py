"""Compression methods behind one verb."""
