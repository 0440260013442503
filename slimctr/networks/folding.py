"""The network half of a model with its constants folded, and its weight matrices in few bits where asked for."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from slimctr.networks.codes_fm import CodesFm
from slimctr.networks.deepfm import DeepFm
from slimctr.networks.expand import FrozenExpands
from slimctr.networks.layers import PairLinear

LEAST_WEIGHTS = 256
"""Matrices of fewer weights stay float32: their scales would eat the gain."""

_SHRINK = torch.tensor([1.0 - 0.02 * step for step in range(31)])

Model = TypeVar("Model", bound=nn.Module)


def folded(model: Model) -> Model:
    """Return the network of a CtrModel without its tables, as it is exported; `model` itself is not changed.

    - All expands become one matrix (sum of d_f, F*D) and one offset.
    - Layer 1 of the MLP is multiplied by that matrix where the backbone lets it read the embeddings, and then
      takes the stored codes: W1' = W1 M^T, w0' = w0 + W1 offset. Further inputs of layer 1 (the products of
      IPNN) keep their columns. The factorization machine of DeepFM is folded with it too (`CodesFm`); other
      interactions keep reading D-wide embeddings.
    - A batch-norm is folded into the linear map before it, the correction for negative down-sampling into
      the bias of the head. The function is the same up to float32 rounding. Products are taken in float64.
    - With `network_bits`, the matrices of all linear maps of 256 weights or more are then rounded to codes of a
      symmetric grid per output (`rounded_matrix`), and hold code * scale; `matrix_codes` has both by name.
    """
    kept_out: dict[int, object] = {id(model.tables): nn.ModuleList(), id(model.wide): None}
    twin = copy.deepcopy(model, kept_out).eval()  # the memo stands in for the tables, which may be large
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    backbone = twin.backbone
    if not twin.expands.is_identity:
        matrix, offset = twin.expands.block()
        twin.expands = FrozenExpands(matrix, offset)
        if isinstance(backbone, DeepFm):
            twin.expands = nn.Identity()
            backbone.interaction = CodesFm(matrix, offset, model.spec.dim)
            backbone.head.bias += backbone.interaction.constant
            twin.all_on_codes = True
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
    if (bits := model.spec.network_bits) is not None:
        for name, linear in coded_maps(backbone).items():
            codes, scales = rounded_matrix(linear.weight, bits)
            linear.weight.copy_(codes * scales.unsqueeze(1))
            twin.matrix_codes[name] = (codes, scales)
        twin.spec = model.spec.model_copy(update={"network_bits": None})
    return twin


def coded_maps(backbone: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear maps whose matrices `network_bits` rounds, by name."""
    return {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and module.weight.numel() >= LEAST_WEIGHTS
    }


def rounded_matrix(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return whole-number codes float32 (out, in) in -(2^(b-1) - 1) .. 2^(b-1) - 1 and scales (out,).

    Each output takes the scale, among those that cover 1.00, 0.98, ..., 0.40 of its largest weight, that gives its
    row the least squared error. A row of zeros has scale 1.
    """
    most = 2 ** (bits - 1) - 1
    largest = weight.abs().amax(dim=1)
    covering = torch.where(largest > 0, largest, torch.ones_like(largest)) / most
    best_error = torch.full_like(covering, torch.inf)
    best_codes, best_scales = torch.zeros_like(weight), covering.clone()
    for share in _SHRINK:
        scales = covering * share
        codes = (weight / scales.unsqueeze(1)).round().clamp(-most, most)
        error = (codes * scales.unsqueeze(1) - weight).square().sum(dim=1)
        better = error < best_error
        best_codes[better], best_scales[better], best_error[better] = (
            codes[better],
            scales[better],
            error[better],
        )
    return best_codes, best_scales


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
