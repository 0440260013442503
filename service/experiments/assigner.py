"""Decides per request which version answers: pinned, by label, or by the variant of its unit."""

from typing import NamedTuple, Protocol

from model_store.store import DEFAULT_LABEL
from service.experiments.assignment import bucket, choose, ranges
from service.experiments.spec import PINNED, ExperimentSpec
from slimctr.scoring import Scorer

# The declared state of an experiment from a file never changes while it runs.
REVISION = 1


class Versions(Protocol):
    """What the experiments need of the pool of loaded versions."""

    def scorer(self, model: str, version: int) -> Scorer | None:
        """Return the engine of a READY version, None for any other."""

    def label_version(self, model: str, label: str) -> int:
        """Return the version that requests for a label get; raises when there is none."""


class Assignment(NamedTuple):
    """Which version answers a request, under which variant name, and why.

    `reason`: hash, no_unit, not_covered, fallback (the variant's version is not ready, the default answers),
    pinned (the request asks for a version or label), no_experiment.
    """

    version: int
    variant: str
    experiment: str | None
    revision: int | None
    reason: str


def assign_without_experiment(
    pool: Versions, model: str, version: int | None, label: str | None
) -> Assignment:
    """Return the assignment of a model that no experiment splits."""
    if version is not None:
        return Assignment(version, PINNED, None, None, "pinned")
    if label is not None:
        return Assignment(pool.label_version(model, label), label, None, None, "pinned")
    return Assignment(pool.label_version(model, DEFAULT_LABEL), DEFAULT_LABEL, None, None, "no_experiment")


class Assigner:
    """Assign the requests of one experiment; `versions` has the version of every variant."""

    def __init__(self, spec: ExperimentSpec, versions: dict[str, int], pool: Versions) -> None:
        self._spec = spec
        self._versions = versions
        self._pool = pool
        self._bounds = ranges(spec.coverage, [variant.weight for variant in spec.variants])

    def request(self, unit_id: str | None, version: int | None, label: str | None) -> Assignment:
        """Return the assignment of a request; raises what the pool raises for an unknown label."""
        if version is not None:
            return self._assignment(version, PINNED, "pinned")
        if label is not None:
            return self._assignment(self._pool.label_version(self._spec.model, label), label, "pinned")
        return self.unit(unit_id)

    def unit(self, unit_id: str | None) -> Assignment:
        """Return the assignment of a unit; without one the default answers."""
        default = self._versions[self._spec.default]
        if unit_id is None:
            return self._assignment(default, self._spec.default, "no_unit")
        chosen = choose(bucket(self._spec.seed, unit_id), self._bounds)
        if chosen is None:
            return self._assignment(default, self._spec.default, "not_covered")
        name = self._spec.variants[chosen].name
        version = self._versions[name]
        if version != default and self._pool.scorer(self._spec.model, version) is None:
            # The unit stays in its variant for the analysis (intention to treat), whoever answers.
            return self._assignment(default, name, "fallback")
        return self._assignment(version, name, "hash")

    def _assignment(self, version: int, variant: str, reason: str) -> Assignment:
        return Assignment(version, variant, self._spec.key, REVISION, reason)
