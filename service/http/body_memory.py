"""How many bytes the bodies of all requests may have in memory: clients that send large ones share that room."""

from service.errors import QueueFull


class BodyMemory:
    """Counts the bytes of large bodies from their arrival to the end of their requests; on the event loop only."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Count so many bytes more; raise QueueFull when that is too many."""
        if self.held_bytes + size_bytes > self._max_bytes:
            raise QueueFull(
                f"bodies of {self.held_bytes} bytes are being read or wait, and all may have "
                f"max_pending_body_bytes ({self._max_bytes})"
            )
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Count so many bytes less."""
        self.held_bytes -= size_bytes
