"""The error tree of the model store. A message says what is wrong, with which object, and what to do.

StoreError
├── Absence           something that is not there yet or cannot be read now; trying again later may help
│   ├── NotFound          a model, version or label that the store does not have
│   ├── MissingManifest   a manifest that is not there; also a ManifestError
│   └── MissingFile       a file that is not there, or shorter than the manifest says; also an IntegrityError
├── InvalidName       a name that no model, version or label may have
├── ManifestError     a manifest or labels file that does not say what the format allows
├── IntegrityError    a file that is missing, extra, altered, truncated or malformed
└── Conflict          a change that the state of the store forbids: a stale revision, a labeled version
"""


class StoreError(Exception):
    """Base of every expected error of the store."""


class Absence(StoreError):
    """Something that is not there yet or cannot be read now; trying again later may help."""


class NotFound(Absence):
    """A model, version or label that the store does not have."""


class InvalidName(StoreError, ValueError):
    """A name that no model, version or label may have."""


class ManifestError(StoreError):
    """A manifest or labels file that does not say what the format allows."""


class IntegrityError(StoreError):
    """A file that is missing, extra, altered, truncated or malformed."""


class Conflict(StoreError):
    """A change that the state of the store forbids."""


class MissingManifest(ManifestError, Absence):
    """A manifest that is not there, or cannot be read now."""


class MissingFile(IntegrityError, Absence):
    """A file that is not there, cannot be read now, or is shorter than the manifest says."""
