"""Immutable, verified, versioned artifacts and movable labels."""
