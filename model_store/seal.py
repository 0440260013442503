"""The seal of a version: the digest of its manifest, in a file beside its folder (docs/artifact-format.md).

The manifest holds the digests of all other files, so the seal covers every byte of a version. It stands outside the
folder, so that neither an edited manifest nor the folder of another version agrees with it.
"""

import hashlib
import os
import re
from pathlib import Path

from model_store.errors import IntegrityError
from model_store.names import MANIFEST_FILE
from model_store.tensors import open_regular

SEAL_SUFFIX = ".sha256"
_SEAL = re.compile(rb"([0-9a-f]{64})  ([1-9][0-9]{0,17})/manifest\.json\n")
_MAX_SEAL_BYTES = 256


def seal_path(directory: Path) -> Path:
    """Return where the seal of a version directory lies: `3.sha256` beside `3`."""
    directory = directory.absolute()
    return directory.parent / f"{directory.name}{SEAL_SUFFIX}"


def seal_of(manifest: bytes, version: str) -> bytes:
    """Return the content of the seal of a manifest: the line that `sha256sum VERSION/manifest.json` prints."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {version}/{MANIFEST_FILE}\n".encode()


def check_seal(directory: Path, manifest: bytes, version: str) -> bool:
    """Return whether the version directory has a seal; raise IntegrityError when the seal is not of `manifest`."""
    path = seal_path(directory)
    if not os.path.lexists(path):
        return False
    with open_regular(path) as file:
        data = file.read(_MAX_SEAL_BYTES + 1)
    found = _SEAL.fullmatch(data)
    if found is None:
        raise IntegrityError(
            f"{path}: is not a seal, which is one line as `sha256sum {version}/{MANIFEST_FILE}` prints it; "
            "copy the seal again from where the version was published"
        )
    if data != seal_of(manifest, version):
        raise IntegrityError(
            f"{directory / MANIFEST_FILE}: is not the manifest that was published: its sha256 is "
            f"{hashlib.sha256(manifest).hexdigest()[:16]}…, for version {version}, the seal {path.name} says "
            f"{found[1][:16].decode()}…, for version {found[2].decode()}; "
            "copy folder and seal again from where the version was published, or publish it again"
        )
    return True
