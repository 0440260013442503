"""Says whether the process is draining; the server sets it, readiness and responses read it."""

from dataclasses import dataclass


@dataclass
class Lifecycle:
    """The one switch from serving to draining; it never goes back."""

    draining: bool = False
