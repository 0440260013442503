"""Whether this process should get traffic."""

from service.errors import NotReady
from service.lifecycle import Lifecycle
from service.pool import Pool


class Readiness:
    """Ready = not draining, and every version that must serve passed its gates."""

    def __init__(self, lifecycle: Lifecycle, pool: Pool) -> None:
        self._lifecycle = lifecycle
        self._pool = pool

    def check(self) -> None:
        """Raise NotReady with everything that is missing."""
        if self._lifecycle.draining:
            raise NotReady("the service is draining: it still answers, but send new work elsewhere")
        blockers = self._pool.blockers()
        if blockers:
            raise NotReady("; ".join(blockers))
