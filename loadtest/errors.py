"""The errors of the load generator."""


class LoadTestError(Exception):
    """A run that cannot start: a profile, data directory or service that does not fit."""
