"""Labels of a model: names that point to versions, and the revision that counts their changes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.errors import ManifestError, NotFound
from model_store.names import LabelName, VersionText
from model_store.strict_json import parse_object


class Labels(BaseModel):
    """`labels.json`: where each label points, and how many changes were made so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: dict[LabelName, VersionText] = {}
    revision: Annotated[int, Field(ge=0)] = 0

    def pointing_to(self, version: int) -> list[str]:
        """Return the labels of `version` in alphabetical order."""
        return sorted(label for label, target in self.labels.items() if target == str(version))

    def moved(self, label: str, version: int) -> "Labels":
        """Return the labels with `label` on `version`; the same object when it is there already."""
        if self.labels.get(label) == str(version):
            return self
        return Labels(labels={**self.labels, label: str(version)}, revision=self.revision + 1)

    def without(self, label: str) -> "Labels":
        """Return the labels without `label`; raise NotFound when there is no such label."""
        if label not in self.labels:
            raise NotFound(f"there is no label '{label}'; labels: {', '.join(sorted(self.labels)) or 'none'}")
        rest = {name: version for name, version in self.labels.items() if name != label}
        return Labels(labels=rest, revision=self.revision + 1)


def parse_labels(data: bytes, where: str) -> Labels:
    """Return what a labels file says; raise ManifestError naming `where` when it is not well-formed."""
    try:
        parse_object(data)
        return Labels.model_validate_json(data, strict=True)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"{where}: {place}: {first['msg']}") from None
    except ValueError as problem:
        raise ManifestError(f"{where}: {problem}") from None
