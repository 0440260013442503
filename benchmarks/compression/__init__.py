"""Trains, compresses, publishes and scores every variant of a plan, and writes the tables of the report."""
