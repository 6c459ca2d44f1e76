"""mse_loss as a PyTorch op, and its functional face."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import _reduction

from fastmodel.errors import InputError
from fastmodel.ops import checks, eager, register
from fastmodel.ops.mse_loss import reference

_REDUCTIONS = {"none": reference.NONE, "mean": reference.MEAN, "sum": reference.SUM}


def _forward_fake(x, target, reduction):
    return torch.empty_like(x) if reduction == reference.NONE else x.new_empty(())


def _backward_fake(grad, x, target, reduction, wanted):
    def like_x(want):
        return torch.empty_like(x) if want else x.new_empty(0)

    return like_x(wanted[0]), like_x(wanted[1])


_forward = register.op(
    "mse_loss(Tensor x, Tensor target, int reduction) -> Tensor", fake=_forward_fake
)
_backward = register.op(
    "mse_loss_backward(Tensor grad, Tensor x, Tensor target, int reduction, bool[2] wanted)"
    " -> (Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, target, ctx.reduction = inputs
    ctx.save_for_backward(x, target)


def _derivative(ctx, grad):
    wanted = list(ctx.needs_input_grad[:2])
    found = _call_backward(grad, *ctx.saved_tensors, ctx.reduction, wanted)
    return (*[value if want else None for value, want in zip(found, wanted, strict=True)], None)


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward, torch.float32)

# No FLOP formula: PyTorch's counter counts none for its mse_loss, so none are counted for ours.


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Mean squared error, as `torch.nn.functional.mse_loss`: loss = (input - target)^2, reduced.

    Args:
        input: any shape and strides, any floating dtype.
        target: of input's shape; a target of another shape is broadcast with a warning, of another floating
            dtype promoted.
        size_average: deprecated, as in PyTorch; see reduction.
        reduce: deprecated, as in PyTorch; see reduction.
        reduction: "none", "sum", or "mean": the sum divided by the elements. The mean of none is NaN.
        weight: a factor for each element, of input's shape, or None. With it PyTorch's own ops serve the
            call, and the mean is that of the weighted terms over the sum of the weights.

    Returns:
        A scalar, or for "none" one loss an element; dtype of input promoted with target's, float32 under
        autocast. Inputs are left as they are; the result is deterministic, whatever the thread count. input
        and target may want gradients.

    Raises:
        InputError: dtypes, devices or options do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in _REDUCTIONS:
        raise InputError(f"mse_loss: reduction {reduction!r} is unknown; choose none, mean or sum")
    if weight is not None:
        # PyTorch's stub leaves the argument out.
        plain = cast(Callable[..., Tensor], torch.nn.functional.mse_loss)
        return plain(input, target, reduction=reduction, weight=weight)
    if input.dtype != target.dtype or input.shape != target.shape:
        input, target = _alike(input, target)
    checks.floating("mse_loss", "input", input)
    if input.device != target.device:
        checks.same_device("mse_loss", "input", input, target=target)
    return _call_forward(input, target, _REDUCTIONS[reduction])


def _alike(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one shape and dtype."""
    if x.shape != target.shape:
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({x.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
        try:
            x, target = torch.broadcast_tensors(x, target)
        except RuntimeError as error:
            raise InputError(
                f"mse_loss: input has shape {tuple(x.shape)}, target {tuple(target.shape)}; "
                "pass a target of input's shape"
            ) from error
    dtype = torch.promote_types(x.dtype, target.dtype)
    return x.to(dtype), target.to(dtype)
