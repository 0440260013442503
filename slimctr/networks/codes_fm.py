"""The factorization machine of expanded embeddings, computed on stored codes: nothing D-wide is made per field."""

import torch
from torch import Tensor, nn

_SAME = 1e-6
_SMALL = 1e-5
"""Directions of a block below this share of its largest are noise of float32, and would make huge shifts."""


class CodesFm(nn.Module):
    """Sum over field pairs of <e_i, e_j> for embeddings e = z M + o: codes z (B, C) give (B,).

    M (C, F*D) is block diagonal, so that half of |sum of e|^2 minus sum of |e|^2 needs only the sum of its blocks
    (C, D) and their Gram matrices. Codes are first shifted so that the offsets leave the second term. Where the
    blocks have orthonormal rows, as principal axes and kept columns do, the Gram matrix is the identity and left
    out. `constant` is what remains of the offsets, to be added by whoever owns a bias. Products are taken in float64.
    """

    shift: Tensor
    sums: Tensor
    start: Tensor
    gram: Tensor | None

    def __init__(self, matrix: Tensor, offset: Tensor, dim: int) -> None:
        super().__init__()
        blocks, means = matrix.detach().double(), offset.detach().double()
        gram = blocks @ blocks.T
        shift = torch.linalg.lstsq(blocks.T, means.unsqueeze(1), rcond=_SMALL, driver="gelsd").solution[:, 0]
        left = means - shift @ blocks  # what no code can express
        is_orthonormal = bool((gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max() <= _SAME)
        self.constant = -0.5 * float(left @ left)
        self.register_buffer("shift", shift.float())
        self.register_buffer("sums", blocks.unflatten(1, (-1, dim)).sum(dim=1).float())
        self.register_buffer("start", left.unflatten(0, (-1, dim)).sum(dim=0).float())
        self.register_buffer("gram", None if is_orthonormal else gram.float())

    def forward(self, codes: Tensor) -> Tensor:
        """Return (B,), without `constant`."""
        shifted = codes + self.shift
        total = torch.addmm(self.start, shifted, self.sums)
        other = shifted if self.gram is None else shifted @ self.gram
        return 0.5 * ((total * total).sum(dim=1) - (shifted * other).sum(dim=1))
