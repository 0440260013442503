"""One model in every form that a server needs: our artifact; torch checkpoint and ONNX file of the float original."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.large_models import model_name, publish
from benchmarks.random_models import DIM, FIELDS, field_rows, low_rank_model, variant_of, zipf_ids
from benchmarks.serving import deepfm
from model_store.store import ModelStore
from slimctr.features import EncodedBatch
from slimctr.networks import CtrModel
from slimctr.scoring import Scorer, sigmoid

IDS = 1_000_000
SEED = 0
COMPRESSED = ("pca_8bit", "pca_8bit_narrow")
HIDDEN = (400, 400, 400)


@dataclass(frozen=True)
class Files:
    """Where the forms of the model lie."""

    work: Path

    def store(self, variant: str) -> Path:
        """A store that holds one compressed variant, which the label `stable` points to."""
        return self.work / "stores" / variant

    @property
    def torch(self) -> Path:
        return self.work / "float.pt"

    @property
    def onnx(self) -> Path:
        return self.work / "float.onnx"

    def version(self, variant: str) -> Path:
        """The version directory of a compressed variant."""
        store = ModelStore(self.store(variant))
        return store.path(model_name(IDS), int(store.labels(model_name(IDS)).labels["stable"]))


def make_files(work: Path) -> Files:
    """Make what is not under `work` yet."""
    files = Files(work)
    for variant in COMPRESSED:
        store = files.store(variant)
        store.mkdir(parents=True, exist_ok=True)
        version = publish(store, IDS, [variant], SEED)[variant]
        ModelStore(store).set_label(model_name(IDS), "stable", version)
    if not files.onnx.exists():
        _write_float(variant_of("original", low_rank_model(field_rows(IDS), SEED)), files)
    return files


def asked_ids(count: int) -> NDArray[np.int32]:
    """Row ids (count, F) to ask, frequent ones more often; row r is the raw value str(r)."""
    return zipf_ids(field_rows(IDS), count, SEED)


def expected_scores(files: Files, ids: NDArray[np.int32]) -> dict[str, NDArray[np.float32]]:
    """Probabilities (count,) of the `float` original in torch, and of each compressed variant in the engine."""
    batch = EncodedBatch.uncounted(ids)
    compressed = {name: sigmoid(Scorer.open(files.version(name)).logits(batch)) for name in COMPRESSED}
    return {"float": deepfm.score(deepfm.load(files.torch), ids), **compressed}


def _write_float(model: CtrModel, files: Files) -> None:
    """Write the original as a plain service has it: one table for all fields, batch norm folded."""
    state = model.state_dict()
    plain = deepfm.DeepFM(model.spec.rows, DIM, HIDDEN).eval()
    with torch.inference_mode():
        plain.embedding.weight.copy_(torch.cat([state[f"tables.{field}.weight"] for field in range(FIELDS)]))
        plain.wide.weight.copy_(torch.cat([state[f"wide.{field}.weight"] for field in range(FIELDS)]))
        for target, block in zip(plain.hidden, model.backbone.mlp.blocks, strict=True):
            # Batch norm of a model that was never trained only scales: its statistics are zeros and ones.
            scale = block.norm.weight / torch.sqrt(block.norm.running_var + block.norm.eps)
            target.weight.copy_(block.linear.weight * scale[:, None])
            target.bias.copy_(block.linear.bias * scale)
        plain.head.load_state_dict(model.backbone.head.state_dict())
        ids = torch.from_numpy(asked_ids(100))
        difference = (torch.sigmoid(model(ids)) - plain(ids.long())).abs().max().item()
    if difference > 1e-5:
        raise RuntimeError(f"the plain model differs by {difference} from ours")
    torch.save({"rows": model.spec.rows, "weights": plain.state_dict()}, files.torch)
    torch.onnx.export(
        plain,
        (torch.zeros((2, FIELDS), dtype=torch.int64),),
        files.onnx,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
