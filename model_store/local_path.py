"""The rule of paths: a store, a data set, a run and every other file or folder lies on this machine."""

import re
from pathlib import Path

# A `Path` has lost one of the two slashes; one letter before the colon would be a drive, not a scheme.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def remote_fault(path: Path | str) -> str | None:
    """Return what is wrong with a path that is the URL of a remote file or folder, None for any other path.

    For example `s3://bucket/models`: the sentence names the scheme and what to do instead.
    """
    found = _URL.match(str(path))
    if found is None:
        return None
    scheme = found[1].lower()
    url = re.sub(r"^([^:]+):/+", r"\1://", str(path))
    if scheme == "file":
        return f"'{url}' is a URL: give the path itself, without '{scheme}://'"
    return (
        f"'{url}' is a URL of the scheme '{scheme}', and only folders and files of this machine are read and "
        "written: mount the remote folder, or sync it to a local one, and give the local path "
        "(docs/deployment.md says how to sync a store)"
    )
