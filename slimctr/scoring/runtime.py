"""ONNX Runtime, imported with its telemetry off.

Unless the environment says otherwise before the first import, the runtime's own builds start an uploading thread,
write an identifier and a database to the home folder, and send events. A scoring process does none of that.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

__all__ = ["onnxruntime"]
