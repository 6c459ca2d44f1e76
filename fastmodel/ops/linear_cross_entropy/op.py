"""linear_cross_entropy as a PyTorch op, and its functional face."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops import checks, eager, linear_layer, register
from fastmodel.ops.class_loss import NONE, REDUCTIONS
from fastmodel.ops.linear_cross_entropy import reference

_INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor target, Tensor? class_weight"
_OPTIONS = "int ignore_index, int reduction, float label_smoothing, bool[3] wanted"


def _forward_fake(x, weight, bias, target, class_weight, ignore_index, reduction, _, wanted):
    loss = x.new_empty(
        target.shape if reduction == NONE else (), dtype=reference.wide_dtype(x.dtype)
    )
    if reduction == NONE:
        return loss, *reference.no_gradients(x)
    return loss, *linear_layer.gradients_like(x, weight, wanted)


def _backward_fake(grad, x, weight, bias, target, class_weight, *options):
    return linear_layer.gradients_like(x, weight, options[-1])


def _forward_flops(x, weight, *rest, out_shape=None, **_) -> int:
    reduction, wanted = rest[-3], rest[-1]
    products = 1 if reduction == NONE else 1 + wanted[0] + wanted[1]
    return products * linear_layer.forward_flops(x, weight)


def _backward_flops(grad, x, weight, *rest, out_shape=None, **_) -> int:
    return (1 + rest[-1][0] + rest[-1][1]) * linear_layer.forward_flops(x, weight)


_forward = register.op(
    f"linear_cross_entropy({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=_forward_fake,
)
_backward = register.op(
    f"linear_cross_entropy_backward(Tensor grad, {_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)
_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, weight, bias, target, class_weight, *ctx.options, _ = inputs
    _, *ctx.gradients = output
    ctx.mark_non_differentiable(*ctx.gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, target, class_weight)


def _derivative(ctx, grad, *_):
    """The gradients that forward left, times the incoming one; made again where they have been handed over.

    Handed over they are the caller's, so a later backward of the same graph starts from the inputs. So it is
    with one that is to be differentiated itself.
    """
    wanted = list(ctx.needs_input_grad[:3])
    if grad is None or not any(wanted):
        return (None,) * 9
    left, ctx.gradients = ctx.gradients, None
    has_left = left is not None and all(
        value.numel() or not want for value, want in zip(left, wanted, strict=True)
    )
    if torch.is_grad_enabled() or not has_left or grad.dim() or eager.is_batched(grad):
        found = _call_backward(grad, *ctx.saved_tensors, *ctx.options, wanted)
    else:
        found = [
            _scaled(value, grad) if want else None for value, want in zip(left, wanted, strict=True)
        ]
    given = [value if want else None for value, want in zip(found, wanted, strict=True)]
    return (*given, *(None,) * 6)


def _scaled(value: Tensor, grad: Tensor) -> Tensor:
    if not eager.is_plain((value, grad)):
        return value * grad.to(value.dtype)
    return value if grad.is_cpu and grad.item() == 1.0 else value.mul_(grad)


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward, leading=3)
register.flops(_forward, _forward_flops)
register.flops(_backward, _backward_flops)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
) -> Tensor:
    """Cross-entropy of the logits of a linear layer, as `torch.nn.functional.linear_cross_entropy`.

    loss = cross_entropy(input @ linear_weight.T + linear_bias, target). The logits are made and used up a
    chunk of rows at a time, and their gradients with them, in the same pass: of all tensors as large as the
    logits none is ever held in whole.

    Args:
        input: (..., D), any strides, any floating dtype.
        linear_weight: (C, D), dtype of input.
        target: (...), class indices, int64 or uint8.
        linear_bias: (C,), dtype of input, or None.
        weight: (C,), a factor per class, or None.
        reduction: "none", "sum", or "mean": the sum divided by the weights of the class indices that count.
            The mean of no rows is NaN. With "none", and in float16, whose range asks for the scaled loss's
            gradient, the logits are made a second time in backward.
        ignore_index: rows of this class index count for nothing; None for -100.
        label_smoothing: in [0, 1], how much of the target is spread evenly over the classes.
        options: PyTorch's for its own chunks; here it changes nothing.

    Returns:
        A scalar, or for "none" one loss a row, of target's shape; dtype of input, float32 under autocast.
        Inputs are left as they are; the result is deterministic for a fixed thread count. input,
        linear_weight and linear_bias may want gradients. Logits have the dtype of the product, as PyTorch's;
        softmax and loss are worked out in float32 at least.

    Raises:
        InputError: shapes, dtypes, devices or options do not fit together, or the target is probabilities:
            these are as large as the logits; use `cross_entropy`.
        TargetIndexError: a class index is out of range; it is an IndexError, as PyTorch's.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    if reduction not in REDUCTIONS:
        raise InputError(
            f"linear_cross_entropy: reduction {reduction!r} is unknown; choose none, mean or sum"
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise InputError(
            "linear_cross_entropy: label_smoothing must be between 0.0 and 1.0, it is "
            f"{label_smoothing}"
        )
    _check(input, linear_weight, target, linear_bias, weight)
    wants = torch.is_grad_enabled() and _product_dtype(input) is not torch.float16
    loss = _call_forward(
        input.reshape(target.numel(), input.shape[-1]),
        linear_weight,
        linear_bias,
        target.reshape(-1).long(),
        weight,
        -100 if ignore_index is None else ignore_index,
        REDUCTIONS[reduction],
        label_smoothing,
        [
            wants and input.requires_grad,
            wants and linear_weight.requires_grad,
            wants and linear_bias is not None and linear_bias.requires_grad,
        ],
    )[0]
    if reduction == "none":
        loss = loss.reshape(target.shape)
    if input.dtype == loss.dtype or torch.is_autocast_enabled(input.device.type):
        return loss
    return loss.to(input.dtype)


def _product_dtype(x: Tensor) -> torch.dtype:
    device_type = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device_type):
        return x.dtype
    return torch.get_autocast_dtype(device_type)


def _check(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, class_weight: Tensor | None
) -> None:
    linear_layer.check("linear_cross_entropy", x, weight, bias)
    classes = weight.shape[0]
    if target.is_floating_point():
        raise InputError(
            "linear_cross_entropy: the target is probabilities, which are as large as the logits; pass "
            "class indices, or call cross_entropy with the logits"
        )
    if target.dtype not in (torch.int64, torch.uint8) or target.shape != x.shape[:-1]:
        raise InputError(
            f"linear_cross_entropy: input of shape {tuple(x.shape)} asks for class indices of shape "
            f"{tuple(x.shape[:-1])} as int64, target has {tuple(target.shape)} of "
            f"{checks.dtype_name(target.dtype)}"
        )
    checks.same_device("linear_cross_entropy", "input", x, target=target, weight=class_weight)
    if class_weight is None:
        return
    checks.floating("linear_cross_entropy", "weight", class_weight)
    if tuple(class_weight.shape) != (classes,):
        raise InputError(
            f"linear_cross_entropy: weight has shape {tuple(class_weight.shape)}, linear_weight has "
            f"{classes} classes; pass weight of shape ({classes},) or None"
        )
    if class_weight.requires_grad and torch.is_grad_enabled():
        raise InputError(
            "linear_cross_entropy: weight has no gradient with class indices; pass weight.detach()"
        )
