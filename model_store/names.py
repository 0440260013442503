"""What a model, version, label, file, experiment, request, unit or outcome may be called: the only home of these rules.

A rule is a regular expression and the sentence that explains it. Whoever reads names uses the rule from here: the store,
the experiment file, the settings, the wire, the state. So a name that one of them takes is a name to all of them.
"""

import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

from model_store.errors import InvalidName


def _shown(text: str) -> str:
    return repr(text if len(text) <= 150 else text[:150] + "…")


class NameRule(NamedTuple):
    """One kind of name: the pattern that the whole name matches, and the rule in words."""

    kind: str
    pattern: re.Pattern[str]
    meaning: str

    def fits(self, text: str) -> bool:
        """Return whether `text` is such a name."""
        return self.pattern.fullmatch(text) is not None

    def check(self, text: str) -> str:
        """Return `text` when it is such a name; raise InvalidName, which is a ValueError, otherwise."""
        if self.pattern.fullmatch(text) is None:
            raise InvalidName(f"{_shown(text)} cannot name {self.kind}: use {self.meaning}")
        return text


def _schema(rule: NameRule) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{rule.pattern.pattern}$"})


_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_WORD_MEANING = "1 to 128 letters, digits, '.', '_' or '-', a letter or digit first"

# /v2/models/stats is the statistics of all models.
MODEL = NameRule("a model", re.compile(rf"(?!stats$){_WORD}"), f"{_WORD_MEANING}, and not 'stats'")
# `name@7` and `"version": 7` are versions.
LABEL = NameRule("a label", re.compile(rf"(?![0-9]+$){_WORD}"), f"{_WORD_MEANING}, and not only digits")
VERSION = NameRule("a version", re.compile(r"[1-9][0-9]{0,17}"), "a positive integer of at most 18 digits")
FILE = NameRule("a file of a version", re.compile(rf"(?!manifest\.json$){_WORD}"), _WORD_MEANING)
EXPERIMENT = NameRule(
    "an experiment or a variant",
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
    "1 to 64 letters, digits, '.', '_' or '-', a letter or digit first",
)
REQUEST_ID = NameRule("a request", re.compile(r"[A-Za-z0-9._:-]{1,128}"), "1 to 128 of A-Z a-z 0-9 . _ : -")
UNIT_ID = NameRule("a unit", re.compile(r"[ -~]{1,256}"), "1 to 256 printable ASCII characters")
OUTCOME_ID = NameRule("an outcome", UNIT_ID.pattern, UNIT_ID.meaning)

# The types of texts in pydantic models that a rule checks.
ModelName = Annotated[str, AfterValidator(MODEL.check), _schema(MODEL)]
LabelName = Annotated[str, AfterValidator(LABEL.check), _schema(LABEL)]
VersionText = Annotated[str, AfterValidator(VERSION.check), _schema(VERSION)]
ExperimentName = Annotated[str, AfterValidator(EXPERIMENT.check), _schema(EXPERIMENT)]
RequestId = Annotated[str, AfterValidator(REQUEST_ID.check), _schema(REQUEST_ID)]
UnitId = Annotated[str, AfterValidator(UNIT_ID.check), _schema(UNIT_ID)]
OutcomeId = Annotated[str, AfterValidator(OUTCOME_ID.check), _schema(OUTCOME_ID)]

MANIFEST_FILE = "manifest.json"
LABELS_FILE = "labels.json"
