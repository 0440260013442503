"""The default model, on which all workers of a service agree."""

import logging
import os
from pathlib import Path

_DECISION = "default-model"

logger = logging.getLogger("slimctr.default_model")


def is_decided(folder: Path) -> bool:
    """Return whether a worker has decided before."""
    return (folder / _DECISION).exists()


def agreed_default(folder: Path, own: str | None) -> str | None:
    """Return the default model of the workers that share `folder`: `own`, if this worker is the first to ask.

    That there is none is a decision, too. Without it two workers that read the labels at different moments, such as one
    that took the place of a dead one, would answer requests without a model's name differently.
    """
    decision, draft = folder / _DECISION, folder / f"{_DECISION}-{os.getpid()}"
    try:
        draft.write_text(own or "")
        try:
            os.link(draft, decision)  # whole or not at all, and once
        except FileExistsError:
            own = decision.read_text() or None
        draft.unlink()
    except OSError as error:
        logger.error("this worker decides alone on the default model", extra={"detail": str(error)})
    return own
