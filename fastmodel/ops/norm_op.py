"""Norms as PyTorch ops: layer_norm, rms_norm and their residual twins.

Each op's own folder has its mathematics; ops/norm.py says what they share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import dispatch, eager, norm, recompute, register

_FEW_VALUES = 65536
"""Up to here, and twice as far with a backward pass, the call of a fused layer norm from Python costs more
than its kernel gains, in float32 on two cores of an AMD EPYC 9005: at 512 rows of 256 forward alone is 1.13x
PyTorch's own, but forward and backward 0.86x.
"""


def pytorch_is_faster(x: Tensor, *others: Tensor | None) -> bool:
    """Would automatic choice leave a layer norm of x to PyTorch's own op?"""
    return (
        x.numel() <= _FEW_VALUES * (2 if torch.is_grad_enabled() else 1)
        and x.is_cpu
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and dispatch.requested() is None
        and all(other is None or other.dtype == x.dtype for other in others)
    )


def pytorchs(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """A layer norm by PyTorch's own op."""
    out = F.layer_norm(x, normalized_shape, weight, bias, eps)
    if recompute.is_on():

        def again(x, weight, bias):
            return F.layer_norm(x, normalized_shape, weight, bias, eps)

        recompute.offer(out, again, x, weight, bias)
    return out


def define(
    name: str, parameters: Sequence[str], reference_backward: Callable, *, has_residual: bool
) -> Callable[..., tuple[Tensor, ...]]:
    """Register `name` and its backward.

    Args:
        name: of the op, in the kernel table too.
        parameters: "weight", or "weight" and "bias".
        reference_backward: the backward pass in plain PyTorch.
        has_residual: x comes with a residual that is added first; the sum is an output of its own.

    Returns:
        (x, [residual,] *parameters, dims, eps) to (out, [sum,] stats).
    """
    leads = 2 if has_residual else 1
    optional = "".join(f"Tensor? {parameter}, " for parameter in parameters)
    forward = register.op(
        f"{name}(Tensor x, {'Tensor residual, ' if has_residual else ''}{optional}int dims, float eps)"
        f" -> ({', '.join(['Tensor'] * (leads + 1))})",
        fake=lambda *args: _forward_fake(
            args[:leads], dims=args[-2], has_mean="bias" in parameters
        ),
    )
    backward = register.op(
        f"{name}_backward(Tensor grad, {'Tensor? grad_sum, ' if has_residual else ''}Tensor x, {optional}"
        f"Tensor stats, int dims, float eps, bool[{1 + len(parameters)}] wanted)"
        f" -> ({', '.join(['Tensor'] * (1 + len(parameters)))})",
        fake=lambda *args: _backward_fake(args[leads:-4], wanted=args[-1]),
        pass_="backward",
    )
    call_backward = eager.backward(backward)

    def setup_context(ctx, inputs, output):
        *tensors, ctx.dims, ctx.eps = inputs
        stats = output[-1]
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1] if has_residual else tensors[0], *tensors[leads:], stats)

    def derivative(ctx, grad, *others):
        grad_sum = others[:-1]  # of a residual norm; the stats have none
        needed = ctx.needs_input_grad
        of_leads, of_parameters = needed[:leads], needed[leads : leads + len(parameters)]
        wanted = [any(of_leads), *of_parameters]
        own: Tensor | None
        rest: Sequence[Tensor | None]
        if grad is not None and any(wanted):
            own, *rest = call_backward(
                grad, *grad_sum, *ctx.saved_tensors, ctx.dims, ctx.eps, wanted
            )
        else:  # only the sum went on
            own, rest = grad_sum[0] if grad_sum else None, [None] * len(parameters)
        # One gradient for both leads, in the sum's dtype: autograd gives each its own.
        return (
            *[own if need else None for need in of_leads],
            *[value if need else None for value, need in zip(rest, of_parameters, strict=True)],
            None,
            None,
        )

    register.autograd(forward, setup_context, derivative)
    register.autograd_through_reference(backward, reference_backward)
    # As PyTorch: on CUDA norms are in float32, on the CPU in the dtype that comes. To cast the residual alone
    # makes sum and out float32 as well, and leaves the kernel to read x as it is.
    register.autocast(forward, torch.float32, ("cuda",), argument=1 if has_residual else 0)
    call_forward = eager.forward(forward, setup_context, derivative)
    plain = name.removeprefix("add_")

    def call(*args):
        found = call_forward(*args)
        if recompute.is_on():
            lead = found[1] if has_residual else args[0]
            again = functools.partial(_normalised, plain, found[0].dtype, args[-2:])
            recompute.offer(found[0], again, lead, *args[leads:-2])
        return found

    return call


def _normalised(
    op: str, dtype: torch.dtype, options: tuple[int, float], lead: Tensor, *parameters: Tensor
) -> Tensor:
    """A norm's output from what it normalises, which autocast may have brought into another dtype."""
    return dispatch.run(op, "forward", lead.to(dtype), *parameters, *options)[0]


def _forward_fake(leads: Sequence[Tensor], dims: int, has_mean: bool) -> tuple[Tensor, ...]:
    x = leads[0]
    dtype = x.dtype
    for other in leads[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    rows = norm.row_count(x, dims)
    stats = x.new_empty((1 + has_mean, rows), dtype=norm.stats_dtype(dtype))
    return (*[x.new_empty(x.shape, dtype=dtype) for _ in leads], stats)


def _backward_fake(tensors: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, ...]:
    return tuple(
        tensor.new_empty(tensor.shape) if want else tensors[0].new_empty(0)
        for tensor, want in zip(tensors, wanted, strict=True)
    )
