"""The error tree of the experiments; service/errors.py maps it to statuses.

ExperimentError
├── UnknownExperiment      a key under which no experiment runs
└── StateUnavailable       the state backend does not answer; try again later
An experiment file that cannot be used is a slimctr.errors.ConfigError.
"""


class ExperimentError(Exception):
    """Base of every expected error of the experiments; its text is shown to the caller."""


class UnknownExperiment(ExperimentError):
    """A key under which no experiment runs."""


class StateUnavailable(ExperimentError):
    """The state backend does not answer or refuses to write; what was asked has not happened."""
