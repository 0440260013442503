"""How far floating point may lead a result astray: the bounds that tests allow, from the arithmetic alone.

A sum of n products in a format of unit u (2^-24 for float32) differs from the exact one by at most
gamma(n) = n u / (1 - n u) times the sum of the magnitudes, whatever the order, the vector width and the use of fused
operations (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). No figure is one of a CPU.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor
from torch.overrides import TorchFunctionMode

from slimctr.clicklogs import Split
from slimctr.export.artifact import bag_rounding
from slimctr.export.onnx_network import FoldedNetwork
from slimctr.features import EncodedBatch
from slimctr.networks import CtrModel, codes_fm
from slimctr.training import TensorSplit

FLOAT32 = 2.0**-24
FLOAT64 = 2.0**-53
# Units of exp, of the library or of a vector unit, in its last place; a sigmoid adds a sum and a division.
EXP_UNITS = 8
# A folded weight was rounded to float32 twice before it meets its input, and products are rounded once.
WEIGHT_UNITS = 3


def gamma(terms: int, unit: float = FLOAT32) -> float:
    """Return the relative error bound of a sum of `terms` products."""
    return terms * unit / (1 - terms * unit)


SUMS64 = gamma(100_000, FLOAT64)
"""Error of a float64 sum of n terms whose magnitudes add up to m, for n m up to 100,000; relative where m is 1."""
FEW32 = gamma(16)
"""Relative error of up to 16 float32 operations one after another, none of which cancels."""


def dot_error(left: np.ndarray, right: np.ndarray, unit: float = FLOAT32) -> np.ndarray:
    """Return how far `left @ right` (.., n) @ (n, ..) may be from the exact product, in any order of its terms."""
    return gamma(left.shape[-1] + WEIGHT_UNITS, unit) * (
        np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64)
    )


def network_error(
    network: Callable[[Tensor], Tensor], stored: Tensor, stored_error: Tensor | None = None
) -> np.ndarray:
    """Return how far float32 logits (B,) of `network` may be from those of exact arithmetic, to first order.

    Every operation is watched: what its own rounding may add is carried to the logit by the derivative there, as is
    `stored_error` (B, W), by which `stored` (B, W) itself may be off.
    B may not be the size of another axis, so that the rows can be told apart.
    """
    with torch.enable_grad(), _Watch() as watch:
        inputs = stored.detach().clone().requires_grad_()
        logits = network(inputs)
    steps = [step for step in watch.steps if step[0].requires_grad]
    if stored_error is not None:
        steps.append((inputs, stored_error))
    slopes = torch.autograd.grad(logits.sum(), [out for out, _ in steps], allow_unused=True)
    total = torch.zeros(len(stored), dtype=torch.float64)
    for (out, error), slope in zip(steps, slopes, strict=True):
        if slope is None:
            continue
        axes = [axis for axis, size in enumerate(out.shape) if size == len(stored)]
        assert len(axes) == 1, (
            f"a value of shape {tuple(out.shape)} hides which axis are the {len(stored)} rows"
        )
        by_row = (slope.double().abs() * error).movedim(axes[0], 0)
        total += by_row.reshape(len(stored), -1).sum(dim=1)
    # The slopes are those of rounded values: twice the first order covers what is left out.
    return 2 * total.numpy()


def exact_logits(model: CtrModel, stored: Tensor) -> np.ndarray:
    """Return the logits (B,) of float32 `stored` (B, W) in float64; rounded weights are those that export stores."""
    twin = FoldedNetwork(model) if model.spec.network_bits is not None else copy.deepcopy(model)
    with torch.no_grad():
        network = twin.double() if isinstance(twin, FoldedNetwork) else twin.double().network
        return network(stored.double()).numpy()


def folded_error(model: CtrModel, stored: Tensor, stored_error: Tensor | None = None) -> np.ndarray:
    """Return how far float32 logits (B,) of the exported network may be from `exact_logits`."""
    network = FoldedNetwork(model)
    error = network_error(network, stored, stored_error)
    fm = getattr(network.folded.backbone, "interaction", None)
    return error + gram_error(fm, stored[:, : len(fm.shift)]) if isinstance(fm, codes_fm.CodesFm) else error


def gram_error(fm: codes_fm.CodesFm, codes: Tensor) -> np.ndarray:
    """Return what a Gram matrix that is left out may have changed: each entry was the identity's up to _SAME."""
    magnitudes = (codes + fm.shift).double().abs().sum(dim=1).numpy()
    return 0.5 * codes_fm._SAME * magnitudes**2 * (fm.gram is None)


def served_logits(model: CtrModel, batch: EncodedBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (B,) of encoded rows in float64, and how far an engine's may be: lookup and exported network.

    The ids are rows of the training vocabulary. Single values are read alike by torch and engine, bag sums are not.
    """
    split = TensorSplit.of(Split(np.zeros(len(batch), np.float32), batch))
    with torch.no_grad():
        stored = model.eval().lookup(split.ids, split.bags)
        bags = bag_rounding(model, split)
    exact, error = exact_logits(model, stored), folded_error(model, stored, bags)
    # a twentieth of their deviation
    assert error.max() < 0.05 * exact.std(), "the bound could not tell another model from rounding"
    return exact, error


def graph_logits(data: bytes, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (B,) of an ONNX graph of sums, products and ReLUs in float64, and how far float32 ones may be.

    The bound is gamma of the roundings that one term can meet, times the same sums and products of magnitudes.
    """
    exact, _ = _in_float64(onnx.load_from_string(data), stored, lambda values: values)
    model = onnx.load_from_string(data)
    for node in model.graph.node:
        node.op_type = "Add" if node.op_type == "Sub" else node.op_type
    magnitudes, values = _in_float64(model, np.abs(stored), np.abs)
    roundings = 0
    for node in model.graph.node:
        before, after = values[node.input[0]], values[node.output[0]]
        terms = {
            "Gemm": before.shape[-1:],
            "MatMul": before.shape[-1:],
            "ReduceSum": (before.size // after.size,),
        }
        roundings += 1 + sum(terms.get(node.op_type, ()))
    return exact, gamma(roundings) * magnitudes


def _in_float64(
    model: onnx.ModelProto, stored: np.ndarray, changed: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Run a graph on float64 constants and inputs; returns the logits and every value by name."""
    values = {"stored": stored.astype(np.float64)}
    for constant in model.graph.initializer:
        values[constant.name] = onnx.numpy_helper.to_array(constant)
    for node in model.graph.node:  # one by one: the graph declares float32
        inputs = [values[name] for name in node.input]
        inputs = [changed(given) if given.dtype != np.int64 else given for given in inputs]
        inputs = [given.astype(np.float64) if given.dtype == np.float32 else given for given in inputs]
        (values[node.output[0]],) = ReferenceEvaluator(node).run(
            None, dict(zip(node.input, inputs, strict=True))
        )
    return values["logit"], values


def probability_error(logit_error: np.ndarray) -> np.ndarray:
    """Return how far probabilities may be when logits are off by `logit_error`: the slope is 1/4 at most."""
    return logit_error / 4 + gamma(EXP_UNITS + 2)


def auc_error(labels: np.ndarray, exact: np.ndarray, error: np.ndarray) -> float:
    """Return how far the AUC of two roundings of `exact` (n,) may differ: the share of pairs that may swap or tie."""
    clicked, ignored = np.sort(exact[labels == 1]), np.sort(exact[labels == 0])
    reach = 2 * float(error.max())
    near = np.searchsorted(ignored, clicked + reach, "right") - np.searchsorted(ignored, clicked - reach)
    return float(near.sum()) / (len(clicked) * len(ignored)) + SUMS64


class _Watch(TorchFunctionMode):
    """Notes for every arithmetic step its result and how far its own rounding may move each element."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point() and out.requires_grad:
            error = _ERRORS.get(func.__name__, _moved)(func, args, kwargs or {}, out)
            if error is not None:
                self.steps.append((out, error))
        return out


def _magnitudes(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().abs()
    return abs(value) if isinstance(value, float) else value


def _products(func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
    """Sums of products: the operation on the magnitudes."""
    terms = {"linear": lambda: args[0].shape[-1] + 1, "addmm": lambda: args[1].shape[-1] + 1}
    count = terms.get(func.__name__, lambda: args[0].shape[-1])()
    return gamma(count + WEIGHT_UNITS) * func(*map(_magnitudes, args))


def _summed(func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
    terms = args[0].numel() // out.numel()
    return gamma(terms) * func(_magnitudes(args[0]), *args[1:], **kwargs)


def _elementwise(func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
    plus = {"sub": torch.add, "rsub": torch.add, "__rsub__": torch.add}.get(func.__name__, func)
    return gamma(WEIGHT_UNITS) * plus(*map(_magnitudes, args))


def _normed(func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
    """Batch-norm in evaluation mode: ((x - mean) / sqrt(variance + eps)) * weight + bias."""
    given = dict(zip(("input", "running_mean", "running_var", "weight", "bias"), args, strict=False)) | kwargs
    x, mean, variance, weight, bias = (
        _magnitudes(given[name]) for name in ("input", "running_mean", "running_var", "weight", "bias")
    )
    gain = weight / torch.sqrt(variance + given.get("eps", args[-1]))
    return gamma(8) * ((x + mean) * gain + bias)


def _exponential(func: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
    """Sigmoid and softmax: the argument of exp is rounded, exp has units of its own, a sum and a division follow."""
    x = _magnitudes(args[0])
    terms = x.shape[-1] if func.__name__ == "softmax" else 2
    return gamma(EXP_UNITS + terms + 2) * (1 + 2 * x.amax(dim=-1, keepdim=True)) * out.detach().double()


def _moved(func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Values that are only moved, chosen or clipped keep their bits; anything else has to be listed."""
    assert func.__name__ in _MOVES, f"{func.__name__} is not known to be exact"


_ERRORS: dict[str, Callable[[Any, Any, Any, Tensor], Tensor | None]] = {
    **dict.fromkeys(("linear", "addmm", "matmul", "__matmul__", "__rmatmul__", "bmm"), _products),
    **dict.fromkeys(("sum", "mean"), _summed),
    **dict.fromkeys(
        ("add", "sub", "rsub", "mul", "square", "__radd__", "__rmul__", "__rsub__"), _elementwise
    ),
    "batch_norm": _normed,
    **dict.fromkeys(("sigmoid", "softmax"), _exponential),
}
_MOVES = {
    *(
        "__getitem__",
        "reshape",
        "flatten",
        "unflatten",
        "transpose",
        "squeeze",
        "unsqueeze",
        "cat",
        "relu",
        "T",
        "__get__",
    ),
    *(
        "index_select",
        "view",
        "movedim",
        "clone",
        "detach",
        "requires_grad_",
        "contiguous",
        "permute",
        "block_diag",
    ),
}


def assert_same_logits(
    found: np.ndarray | Tensor, exact: np.ndarray | Tensor, error: np.ndarray, what: str = "logits"
) -> None:
    """Fail with the worst row when `found` (B,) leaves `exact` (B,) by more than `error` (B,)."""
    apart = np.abs(np.asarray(found, np.float64) - np.asarray(exact, np.float64))
    worst = int(np.argmax(apart - error))
    assert (apart <= error).all(), (
        f"{what}: row {worst} is {apart[worst]:.3g} from the exact value, rounding explains {error[worst]:.3g}"
    )
