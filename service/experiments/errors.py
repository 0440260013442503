"""The error tree of the experiments; service/errors.py maps it to statuses.

ExperimentError
├── UnknownExperiment      a key under which no experiment runs
└── StateUnavailable       the state backend does not answer; try again later
    └── StateTimeout       it let the caller wait in vain; asking again at once would do the same
An experiment file that cannot be used is a slimctr.errors.ConfigError.
"""


class ExperimentError(Exception):
    """Base of every expected error of the experiments; its text is shown to the caller."""


class UnknownExperiment(ExperimentError):
    """A key under which no experiment runs."""


class StateUnavailable(ExperimentError):
    """The state backend does not answer or refuses to write; what was asked has not happened."""


class StateTimeout(StateUnavailable):
    """The state backend let the caller wait in vain; whether what was asked happened is not known."""
