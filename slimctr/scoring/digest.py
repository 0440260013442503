"""Digests that say whether two models read the same values as the same rows, and the check of those in a manifest."""

import hashlib
import json
from pathlib import Path

from model_store.artifact import VOCABULARY_FILE, Artifact
from model_store.errors import IntegrityError
from model_store.names import MANIFEST_FILE
from slimctr.features.schema import FeatureSchema

REPAIR = "copy the version again from where it was published, or publish it again"


def encoder_digest(schema: FeatureSchema, vocabulary_path: Path) -> tuple[str, str]:
    """Return (`base_vocabulary`, `encoder`) of a manifest, both sha256 in hexadecimal.

    The first is that of the vocabulary file. The second covers all that makes a row of a value: it is that of the
    schema's canonical JSON (sorted keys, defaults left out), a zero byte and the first in hexadecimal.
    """
    with vocabulary_path.open("rb") as file:
        vocabulary = hashlib.file_digest(file, "sha256").hexdigest()
    return vocabulary, hashlib.sha256(_prefix(schema) + vocabulary.encode()).hexdigest()


def check_digests(artifact: Artifact, schema: FeatureSchema) -> None:
    """Raise IntegrityError unless `encoder` and `base_vocabulary` of a manifest are those of its features and files.

    The file of the vocabulary was hashed when the artifact was opened; it is read again only where `encoder` has its
    first form, which had the bytes of that file in place of their digest. `base_vocabulary` follows from the files
    where no method made another vocabulary; for all others golden.json says it.
    """
    manifest = artifact.manifest
    where = artifact.directory / MANIFEST_FILE
    stored = manifest.files[VOCABULARY_FILE].sha256
    prefix = _prefix(schema)
    encoder = hashlib.sha256(prefix + stored.encode()).hexdigest()
    if manifest.encoder != encoder and manifest.encoder != artifact.digest_after(prefix, VOCABULARY_FILE):
        raise IntegrityError(
            f"{where}: encoder is {manifest.encoder[:16]}…, features and {VOCABULARY_FILE} give "
            f"{encoder[:16]}…: fields, bucketing edges, hashing or vocabulary are not those of publishing; "
            f"{REPAIR}"
        )
    if not manifest.method and manifest.base_vocabulary != stored:
        raise IntegrityError(
            f"{where}: base_vocabulary is {manifest.base_vocabulary[:16]}…, {VOCABULARY_FILE} is "
            f"{stored[:16]}…, and a version without compression steps has the vocabulary of its training; "
            f"{REPAIR}"
        )


def _prefix(schema: FeatureSchema) -> bytes:
    document = schema.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return canonical.encode() + b"\0"
