"""Assignment, shadow scoring, exposures, outcomes and estimates."""

from service.experiments.facade import Assignment, Experiments, ScoredRequest
from service.experiments.outcomes import Status
from service.experiments.record import Outcome
from service.experiments.spec import ExperimentSpec, load_experiment
from service.experiments.state import open_state

__all__ = [
    "Assignment",
    "ExperimentSpec",
    "Experiments",
    "Outcome",
    "ScoredRequest",
    "Status",
    "load_experiment",
    "open_state",
]
