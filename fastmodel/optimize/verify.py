"""A candidate's numbers against float64, at the inputs that the model gave it, before it is timed.

Output and every gradient of the plain modules and of the fused one are held against the plain modules in
float64, over the same Parameters, input and incoming gradient. The error of a tensor is its largest absolute
difference over the reference's largest value. The fused module's may be

    bound = 2 (error of the plain modules) + 2 eps S,    S = largest (sum of absolute terms) / largest value

eps is the dtype's. Each value of a convolution, a linear layer or a gradient of theirs is a sum of products
(of a norm: `batch_norm_terms.py`, `norm_terms.py`); rounding any term, in whatever order, moves it by up to
eps times that term, so eps times the sum of the absolute terms is the size of one rounding each: the floor,
where PyTorch happens to round to the very value.

Where values meet (joins.py) there is no one layer whose terms are known. The module in whose forward they do
is called as a whole, with all of its arguments: outputs, and the gradients of every argument and Parameter,
are held to what the bench's gate allows,

    bound = 4 (error of the plain module) + 4 eps (its leaf modules + 1)

Ties. ReLU and max-pool have jumps in their derivatives. Where the float64 value lies within rounding of such
a jump (of zero, or of the second largest of its window), right kernels may send the gradient elsewhere,
PyTorch's among them: no gradient is sent into those outputs, and their share is reported. Rounding is taken
there as eps sqrt(n) times the sum of the n absolute terms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmodel.optimize import batch_norm_terms, norm_terms
from fastmodel.optimize.alone import NORMS
from fastmodel.optimize.calls import Call
from fastmodel.optimize.evidence import Check, Verification
from fastmodel.optimize.select import Candidate
from fastmodel.optimize.trial import without_dropout

_SEED = 20_240_229


@dataclass(frozen=True)
class Reference:
    """The answer in float64, for every layout of the input."""

    values: dict[str, Tensor]
    """Output and gradients, by name."""
    floors: dict[str, float]
    grad: Tensor
    """The incoming gradient, zero near ties."""
    tie_share: float


def verify(candidate: Candidate) -> Verification:
    """Hold a candidate against float64; nothing of it is changed.

    Raises:
        Exception: whatever the fused module raises on the captured input.
    """
    if candidate.call is not None:
        return _of_call(candidate, candidate.call)
    return compare(candidate, reference_of(candidate))


def reference_of(candidate: Candidate) -> Reference:
    """What the plain modules of a candidate compute in float64 at its input."""
    x = candidate.x
    assert x is not None  # a site is reached by the example inputs
    reference = copy.deepcopy(candidate.plain).double()
    x64 = x.detach().double().requires_grad_(x.requires_grad)
    with torch.enable_grad(), without_dropout():
        # A copy of pre: what follows may write in place.
        pre = reference[0](x64)
        expected = reference[1:](pre.clone())
        terms, rounding = _absolute_terms(reference[0], x64, x.dtype)
        ties = _ties(candidate.plain, pre.detach(), terms.detach() * rounding)
        generator = torch.Generator().manual_seed(_SEED)
        grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(x.device)
        grad = grad.masked_fill_(ties, 0.0).to(x.dtype)
        wanted = [t for t in (x64, *reference[0].parameters()) if t.requires_grad]
        gradients, absolute = [], []
        if wanted:
            grad_pre, *gradients = torch.autograd.grad(expected, [pre, *wanted], grad.double())
            absolute = _absolute_gradients(reference[0], x64, grad_pre)
    names = _names(reference[0], x)
    values = dict(zip(names, [expected.detach(), *gradients], strict=True))
    eps = torch.finfo(x.dtype).eps
    scales = dict(zip(names, [terms.detach(), *absolute], strict=True))
    floors = {
        name: 2 * eps * max(1.0, _largest(scales[name]) / _scale(value))
        for name, value in values.items()
    }
    share = ties.double().mean().item() if ties.numel() else 0.0
    return Reference(values, floors, grad, share)


def compare(candidate: Candidate, reference: Reference) -> Verification:
    """Hold a candidate against the answer in float64.

    Args:
        candidate: that of the reference, its input in any layout.
        reference: from `reference_of`.

    Raises:
        Exception: whatever the fused module raises on the captured input.
    """
    assert candidate.x is not None
    with torch.enable_grad(), without_dropout():
        plain = _run(candidate.plain, candidate.plain[0], candidate.x, reference.grad)
        fused = _run(candidate.fused, candidate.fused, candidate.x, reference.grad)
    checks = []
    for name, value in reference.values.items():
        torch_error = error_of(plain[name], value)
        bound = 2 * torch_error + reference.floors[name]
        checks.append(Check(name, error_of(fused[name], value), torch_error, bound))
    return Verification(tuple(checks), reference.tie_share)


def _of_call(candidate: Candidate, call: Call) -> Verification:
    plain, fused = candidate.plain[0], candidate.fused
    exact = copy.deepcopy(plain).double()
    with torch.enable_grad(), without_dropout():
        want = dict(_results(exact, call, torch.float64))
        by_torch, ours = (dict(_results(module, call, None)) for module in (plain, fused))
    leaves = sum(not any(m.children()) for m in plain.modules())
    checks = []
    for name, value in want.items():
        eps = torch.finfo(by_torch[name].dtype).eps
        torch_error = error_of(by_torch[name], value)
        bound = 4 * torch_error + 4 * eps * (leaves + 1)
        checks.append(Check(name, error_of(ours[name], value), torch_error, bound))
    return Verification(tuple(checks))


def _results(
    module: nn.Module, call: Call, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    """Outputs and gradients, by name; the Parameters' `.grad` is not touched."""
    values, inputs = call.fresh(dtype)
    outs = call.of(module, values)
    for index, out in enumerate(outs):
        yield _numbered("output", index, len(outs)), out.detach()
    named = [(_numbered("input", i, len(inputs)), x) for i, x in enumerate(inputs)]
    named += [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    sent = [out for out in outs if out.requires_grad]
    if not (named and sent):
        return
    generator = torch.Generator().manual_seed(_SEED)
    grads = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in sent]
    wanted = [tensor for _, tensor in named]
    found = torch.autograd.grad(sent, wanted, grads, allow_unused=True)
    for (name, tensor), grad in zip(named, found, strict=True):
        yield f"gradient of {name}", torch.zeros_like(tensor) if grad is None else grad


def _numbered(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name} {index}"


def _names(anchor: nn.Module, x: Tensor) -> list[str]:
    names = ["output"] + ["gradient of input"] * x.requires_grad
    return names + [f"gradient of {n}" for n, p in anchor.named_parameters() if p.requires_grad]


def _run(module: nn.Module, anchor: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Output and gradients of one module, by name; the Parameters' `.grad` is not touched."""
    x = x.detach().requires_grad_(x.requires_grad)
    # A leaf may not be written in place: what stands before this module is another's output.
    out = module(x.clone() if x.requires_grad else x)
    wanted = [t for t in (x, *anchor.parameters()) if t.requires_grad]
    gradients = torch.autograd.grad(out, wanted, grad) if wanted else ()
    return dict(zip(_names(anchor, x), [out.detach(), *gradients], strict=True))


def _absolute_terms(anchor: nn.Module, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """The sum of the absolute terms of each of the anchor's outputs, and eps sqrt(how many there are)."""
    if isinstance(anchor, nn.BatchNorm2d):
        return batch_norm_terms.of_output(anchor, x), torch.finfo(dtype).eps * 2
    if isinstance(anchor, NORMS):
        return norm_terms.of_output(anchor, x), torch.finfo(dtype).eps * 2
    absolute = copy.deepcopy(anchor)
    with torch.no_grad():
        for parameter in absolute.parameters():
            parameter.abs_()
        terms = absolute(x.detach().abs())
    weight = anchor.weight
    assert isinstance(weight, Tensor)
    count = weight[0].numel() + 1
    return terms, torch.finfo(dtype).eps * math.sqrt(count)


def _absolute_gradients(anchor: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """The sums of absolute terms of the anchor's gradients, those of x and of its parameters."""
    if isinstance(anchor, nn.BatchNorm2d):
        return batch_norm_terms.of_gradients(anchor, x, grad)
    if isinstance(anchor, NORMS):
        return norm_terms.of_gradients(anchor, x, grad)
    absolute = copy.deepcopy(anchor)
    with torch.no_grad():
        for parameter in absolute.parameters():
            parameter.abs_()
    x = x.detach().abs().requires_grad_(x.requires_grad)
    wanted = [t for t in (x, *absolute.parameters()) if t.requires_grad]
    return list(torch.autograd.grad(absolute(x), wanted, grad.abs()))


def _ties(plain: nn.Sequential, pre: Tensor, rounding: Tensor) -> Tensor:
    """Outputs whose gradient rounding may send elsewhere; all False where the activation is smooth."""
    pool = next((m for m in plain if isinstance(m, nn.MaxPool2d)), None)
    if not any(isinstance(m, nn.ReLU) for m in plain):
        return torch.zeros_like(pre, dtype=torch.bool)
    low, high = pre - rounding, pre + rounding
    if pool is None:
        return (low <= 0) & (high > 0)
    low_windows, high_windows = _windows(low, pool), _windows(high, pool)
    best_low = low_windows.amax((-2, -1))
    contenders = (high_windows >= best_low[..., None, None]).sum((-2, -1))
    may_live = high_windows.amax((-2, -1)) > 0
    return may_live & ((best_low <= 0) | (contenders > 1))


def _windows(value: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """(..., PP, PQ, window rows, window columns); minus infinity beyond the borders."""
    kernel, stride, padding = (
        (v, v) if isinstance(v, int) else tuple(v)
        for v in (pool.kernel_size, pool.stride, pool.padding)
    )
    border = (padding[1], padding[1], padding[0], padding[0])
    padded = F.pad(value, border, value=-math.inf)
    return padded.unfold(-2, kernel[0], stride[0]).unfold(-2, kernel[1], stride[1])


def error_of(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the reference's largest value; infinite for other shapes or NaNs."""
    if value.shape != reference.shape:
        return math.inf
    finite = reference.isfinite()
    value = value.double()
    if not torch.equal(value.isfinite(), finite):
        return math.inf
    if not finite.any():
        return 0.0
    return (value - reference)[finite].abs().max().item() / _scale(reference)


def _scale(reference: Tensor) -> float:
    return _largest(reference) or 1.0


def _largest(value: Tensor) -> float:
    finite = value[value.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0
