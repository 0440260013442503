"""Makes the artifact that must load for ever: `python tests/golden/make_artifact.py`, once per format version.

Writes tests/golden/v1 (one version of one model, every codec, synthetic) and tests/golden/v1.json: raw rows, their
row ids, the sha256 of their stored matrix, and their logits.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from artifacts import build_artifact, raw_rows  # noqa: E402

from slimctr.scoring import Scorer  # noqa: E402


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        version = build_artifact(Path(root), model="golden", seed=1)
        shutil.rmtree(HERE / "v1", ignore_errors=True)
        shutil.copytree(version, HERE / "v1")
    scorer = Scorer.open(HERE / "v1")
    rows = raw_rows(40, seed=9)
    batch = scorer.encoder.encode_rows(rows)
    expected = {
        "rows": rows,
        "ids": batch.ids.tolist(),
        "tags": [batch.bags[0].values.tolist(), batch.bags[0].offsets.tolist()],
        "stored_sha256": hashlib.sha256(scorer.lookup(batch).tobytes()).hexdigest(),
        "logits": [float(logit) for logit in scorer.logits(batch)],
    }
    (HERE / "v1.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
