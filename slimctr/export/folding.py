"""The network half of a model as one module ready for export, its constants folded."""

import copy

import torch
from torch import Tensor, nn

from slimctr.networks import CtrModel, FrozenExpands, PairLinear


class FoldedNetwork(nn.Module):
    """`stored` (B, W) to logits (B,): `CtrModel.network` with its constants folded and without its tables."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.folded = model

    def forward(self, stored: Tensor) -> Tensor:
        """Return logits (B,)."""
        return self.folded.network(stored)


def fold_network(model: CtrModel) -> FoldedNetwork:
    """Return the network of `model` for export; `model` itself is not changed.

    - All expands become one matrix (sum of d_f, F*D) and one offset.
    - Layer 1 of the MLP is multiplied by that matrix where the backbone lets it read the embeddings, and then
      takes the stored codes: W1' = W1 M^T, w0' = w0 + W1 offset. Further inputs of layer 1 (the products of
      IPNN) keep their columns. Interactions keep reading D-wide embeddings.
    - A batch-norm is folded into the linear map before it, the correction for negative down-sampling into
      the bias of the head. The function is the same up to float32 rounding. Products are taken in float64.
    """
    kept_out: dict[int, object] = {id(model.tables): nn.ModuleList(), id(model.wide): None}
    twin = copy.deepcopy(model, kept_out).eval()  # the memo stands in for the tables, which may be large
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    backbone = twin.backbone
    if not twin.expands.is_identity:
        matrix, offset = twin.expands.block()
        twin.expands = FrozenExpands(matrix, offset)
        if backbone.mlp_reads_embeddings:
            block = backbone.mlp.blocks[0]
            block.linear = _on_codes(block.linear, matrix, offset)
            twin.mlp_on_codes = True
    for block in backbone.mlp.blocks:
        if isinstance(block.norm, nn.BatchNorm1d):
            _absorb(block.linear, block.norm)
            block.norm = nn.Identity()
    backbone.head.bias += twin.logit_correction
    twin.logit_correction = 0.0
    return FoldedNetwork(twin)


def _on_codes(linear: nn.Linear | PairLinear, matrix: Tensor, offset: Tensor) -> nn.Linear | PairLinear:
    """Return `linear` for the codes z instead of the embeddings z @ matrix + offset, its leading inputs."""
    if isinstance(linear, PairLinear):
        linear.first = _on_codes(linear.first, matrix, offset)
        return linear
    codes, embedded = matrix.shape
    weight = linear.weight[:, :embedded].double()
    folded = nn.Linear(codes + linear.in_features - embedded, linear.out_features)
    folded.requires_grad_(False)
    folded.weight[:, :codes] = weight @ matrix.double().T
    folded.weight[:, codes:] = linear.weight[:, embedded:]
    folded.bias.copy_(linear.bias.double() + weight @ offset.double())
    return folded


def _absorb(linear: nn.Linear | PairLinear, norm: nn.BatchNorm1d) -> None:
    """Multiply a batch-norm in evaluation mode into the linear map before it."""
    last = linear.second if isinstance(linear, PairLinear) else linear
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    last.weight.copy_(gain.unsqueeze(1) * last.weight.double())
    last.bias.copy_((last.bias.double() - norm.running_mean.double()) * gain + norm.bias.double())
