"""Settings of the networks: what `params` of a specification may hold, with the published defaults."""

import difflib
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Depth = Annotated[int, Field(ge=1, le=64)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Share = Annotated[float, Field(ge=0, le=0.999)]


class MlpParams(BaseModel):
    """Settings of the MLP that every network here has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (400, 400, 400)
    batch_norm: bool = True
    dropout: Share = 0.2


class CrossParams(MlpParams):
    """The same with the depth of the cross network beside it."""

    cross_layers: Depth = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known name closest to a misspelled one, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
