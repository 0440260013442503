"""Digests that say whether two models read the same values as the same rows."""

import hashlib
import json
from pathlib import Path

from slimctr.features.schema import FeatureSchema


def encoder_digest(schema: FeatureSchema, vocabulary_path: Path) -> tuple[str, str]:
    """Return (`base_vocabulary`, `encoder`) of a manifest, both sha256 in hexadecimal.

    The first is that of the vocabulary file, the second that of the schema's canonical JSON (sorted keys,
    defaults left out), a zero byte and the bytes of the vocabulary file.
    """
    document = schema.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    vocabulary = hashlib.sha256()
    encoder = hashlib.sha256(canonical.encode() + b"\0")
    with vocabulary_path.open("rb") as file:
        while block := file.read(1024 * 1024):
            vocabulary.update(block)
            encoder.update(block)
    return vocabulary.hexdigest(), encoder.hexdigest()
