"""The names that models, versions, labels and files may have."""

import re

from model_store.errors import InvalidName

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_RESERVED_MODELS = frozenset({"stats"})  # /v2/models/stats is the statistics of all models

MANIFEST_FILE = "manifest.json"
LABELS_FILE = "labels.json"


def check_model(name: str) -> str:
    """Return `name` when a model may have it; raise InvalidName otherwise."""
    if not _NAME.fullmatch(name) or name in _RESERVED_MODELS:
        raise InvalidName(
            f"{name!r} cannot name a model: use 1 to 128 letters, digits, '.', '_' or '-', "
            "a letter or digit first, and not 'stats'"
        )
    return name


def check_label(name: str) -> str:
    """Return `name` when a label may have it; raise InvalidName otherwise: a number is a version."""
    if not _NAME.fullmatch(name) or name.isdecimal():
        raise InvalidName(
            f"{name!r} cannot name a label: use 1 to 128 letters, digits, '.', '_' or '-', not only digits"
        )
    return name


def check_file(name: str) -> str:
    """Return `name` when a file of a version may have it; raise InvalidName otherwise."""
    if not _NAME.fullmatch(name) or name == MANIFEST_FILE:
        raise InvalidName(f"{name!r} cannot name a file of a version")
    return name


def check_version(version: int) -> str:
    """Return the text of `version`; raise InvalidName unless it is an integer from 1, at most 18 digits."""
    if not is_version(str(version)):
        raise InvalidName(f"{version!r} cannot be a version: use a positive integer")
    return str(version)


def is_version(text: str) -> bool:
    """Tell whether `text` is the decimal form of a version."""
    return _VERSION.fullmatch(text) is not None


def is_model(text: str) -> bool:
    """Tell whether `text` may name a model."""
    return _NAME.fullmatch(text) is not None and text not in _RESERVED_MODELS
