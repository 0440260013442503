"""The schema and vocabulary of a published version, with which a newer log can be encoded."""

from dataclasses import dataclass
from pathlib import Path

from model_store.artifact import VOCABULARY_FILE, read_manifest
from model_store.errors import StoreError
from model_store.names import MANIFEST_FILE
from model_store.store import ModelStore
from slimctr.clicklogs.sources import sha256_of
from slimctr.errors import ConfigError
from slimctr.features import FeatureSchema, Vocabulary


@dataclass(frozen=True)
class PublishedEncoder:
    """How a version reads values: `schema`, and its own vocabulary at `path`, with the rows that its tables store."""

    name: str
    schema: FeatureSchema
    path: Path

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary, memory-mapped."""
        return Vocabulary.open(self.path, self.schema)


def published_encoder(reference: Path) -> PublishedEncoder:
    """Return that of a version folder, or of STORE/NAME, STORE/NAME@VERSION or STORE/NAME@LABEL.

    Raises ConfigError when there is none or its vocabulary is not the one that was published.
    """
    try:
        if (reference / MANIFEST_FILE).is_file():
            folder = reference
            manifest, _ = read_manifest(folder)
        else:
            store = ModelStore(reference.parent)
            model, version = store.resolve(reference.name)
            folder, manifest = store.path(model, version), store.manifest(model, version)
    except StoreError as error:
        raise ConfigError(
            f"--vocabulary-of {reference}: {error}. Name a version folder, or STORE/NAME@VERSION, "
            "for example ./models/ctr@stable"
        ) from error
    name = f"{manifest.model}@{manifest.version}"
    path = folder / VOCABULARY_FILE
    if not path.is_file() or sha256_of(path) != manifest.files[VOCABULARY_FILE].sha256:
        raise ConfigError(
            f"--vocabulary-of {reference}: {path} is not the vocabulary that {name} was published with"
        )
    return PublishedEncoder(name, FeatureSchema.parse(manifest.features, f"features of {name}"), path)
