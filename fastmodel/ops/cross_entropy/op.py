"""cross_entropy as a PyTorch op, and its functional face."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import _reduction

from fastmodel import env
from fastmodel.errors import InputError
from fastmodel.ops import checks, dispatch, eager, register
from fastmodel.ops.class_loss import NONE, REDUCTIONS
from fastmodel.ops.cross_entropy import cuda_kernel, reference
from fastmodel.ops.native import GPU_DTYPE_CODES


def _forward_fake(x, target, weight, ignore_index, reduction, label_smoothing):
    dtype = reference.loss_dtype(x, target, weight)
    shape = reference.classes_last(x).shape[:-1]
    loss = x.new_empty(shape if reduction == NONE else (), dtype=dtype)
    return loss, x.new_empty(2 * shape.numel() + 1, dtype=reference.stats_dtype(dtype))


def _backward_fake(
    grad, x, target, weight, stats, ignore_index, reduction, label_smoothing, wanted
):
    def classes_last_like(tensor):
        shape = reference.classes_last(tensor).shape
        return reference.classes_back(tensor.new_empty(shape))

    return (
        classes_last_like(x) if wanted[0] else x.new_empty(0),
        classes_last_like(target) if wanted[1] else x.new_empty(0),
        weight.new_empty(weight.shape) if wanted[2] else x.new_empty(0),
    )


_forward = register.op(
    "cross_entropy(Tensor x, Tensor target, Tensor? weight, int ignore_index, int reduction,"
    " float label_smoothing) -> (Tensor, Tensor)",
    fake=_forward_fake,
)
_backward = register.op(
    "cross_entropy_backward(Tensor grad, Tensor x, Tensor target, Tensor? weight, Tensor stats,"
    " int ignore_index, int reduction, float label_smoothing, bool[3] wanted)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, target, weight, *ctx.options = inputs
    stats = output[1]
    ctx.mark_non_differentiable(stats)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, target, weight, stats)


def _derivative(ctx, grad, _):
    wanted = list(ctx.needs_input_grad[:3])
    if grad is None or not any(wanted):
        return (None,) * 6
    found = _call_backward(grad, *ctx.saved_tensors, *ctx.options, wanted)
    gradients = [value if want else None for value, want in zip(found, wanted, strict=True)]
    return (*gradients, None, None, None)


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward, torch.float32)


class _CrossEntropy(torch.autograd.Function):
    """Forward and backward in one pass over the logits, for a loss that is a scalar.

    Forward leaves the gradient behind for an incoming gradient of 1. The first backward hands that tensor
    over, times the incoming gradient; any later one, and one that is to be differentiated, starts from x.
    So x may change in place after forward, as it may in PyTorch, whose own keeps its softmax.
    """

    @staticmethod
    def forward(ctx, *args):
        loss, ctx.gradient = dispatch.run("cross_entropy", "training", *args)
        x, target, weight, *ctx.options = args
        ctx.save_for_backward(x, target, weight)
        return loss

    @staticmethod
    def backward(ctx, grad):
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None or torch.is_grad_enabled() or not _is_a_number(grad):
            gradient = _gradient_again(ctx, grad)
        else:
            _scale_(gradient, grad)
        return gradient, None, None, None, None, None


def _scale_(gradient: Tensor, grad: Tensor) -> None:
    """gradient *= grad, which is 1 in most calls: then a pass over the gradient is spared."""
    if grad.is_cpu:
        if grad.item() != 1.0:
            gradient.mul_(grad)
    elif gradient.dtype in GPU_DTYPE_CODES and grad.is_cuda and env.cuda_missing() is None:
        cuda_kernel.scale_(gradient, grad)
    else:
        gradient.mul_(grad)


def _is_a_number(grad: Tensor) -> bool:
    """Has it a value (and not one for each of a `vmap`, nor the stand-in of some tracer)?"""
    functorch = torch._C._functorch
    return (
        type(grad) is Tensor
        and functorch.peek_interpreter_stack() is None
        and not functorch.is_legacy_batchedtensor(grad)
    )


def _gradient_again(ctx, grad: Tensor) -> Tensor:
    x, target, weight = ctx.saved_tensors
    with torch.no_grad():
        _, stats = _forward(x, target, weight, *ctx.options)
    return _backward(grad, x, target, weight, stats, *ctx.options, [True, False, False])[0]


# Past the Python half of `Function.apply`, which only serves transforms: plain calls run under none.
_loss_and_gradient = super(torch.autograd.Function, _CrossEntropy).apply

# No FLOP formula: PyTorch's counter counts none for its cross-entropy, so none are counted for ours.


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy between logits and a target, as `torch.nn.functional.cross_entropy`.

    Per row, with log_p = log_softmax(input) over the C classes and e the label smoothing,
    loss = -sum_c weight_c ((1 - e) target_c + e / C) log_p_c, where a class index counts as probability 1.

    Args:
        input: logits (C,), (N, C) or (N, C, d1, ...), any strides, any floating dtype.
        target: class indices, int64 or uint8, shaped as input without C; or probabilities of input's shape.
        weight: (C,), a factor per class, or None.
        size_average: deprecated, as in PyTorch; see reduction.
        ignore_index: rows of this class index count for nothing. For class indices only.
        reduce: deprecated, as in PyTorch; see reduction.
        reduction: "none", "sum", or "mean": the sum divided by the weights of the class indices that count,
            or by the rows if the target is probabilities. The mean of no rows is NaN.
        label_smoothing: in [0, 1], how much of the target is spread evenly over the classes.

    Returns:
        A scalar, or for "none" one loss a row; dtype of input (with probabilities, promoted with theirs),
        float32 under autocast. Inputs are left as they are; the result is deterministic for a fixed thread
        count. input, probabilities and (with these) weight may want gradients.

    Raises:
        InputError: shapes, dtypes, devices or options do not fit together.
        TargetIndexError: a class index is out of range; it is an IndexError, as PyTorch's.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in REDUCTIONS:
        raise InputError(
            f"cross_entropy: reduction {reduction!r} is unknown; choose none, mean or sum"
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise InputError(
            f"cross_entropy: label_smoothing must be between 0.0 and 1.0, it is {label_smoothing}"
        )
    target = _checked_target(input, target, weight, ignore_index)
    args = (input, target, weight, ignore_index, REDUCTIONS[reduction], label_smoothing)
    if _is_for_one_pass(*args):
        return _loss_and_gradient(*args)
    return _call_forward(*args)[0]


def _is_for_one_pass(x: Tensor, target: Tensor, weight: Tensor | None, *options) -> bool:
    """Is a scalar's gradient by the logits alone wanted, in plain eager mode?"""
    return (
        x.requires_grad
        and options[1] != NONE
        and torch.is_grad_enabled()
        and not target.requires_grad
        and (weight is None or not weight.requires_grad)
        and eager.is_plain((x, target, weight))
        and not eager._wants_tangents()
    )


def _checked_target(x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """The target as the op takes it: probabilities as they are, or int64 class indices."""
    if (
        weight is None
        and target.dtype is torch.int64
        and target.dim() == 1
        and x.dim() == 2
        and x.shape[0] == target.shape[0]
        and x.is_floating_point()
        and x.device == target.device
    ):
        return target  # the usual call, seen to be good at once
    if x.dim() == 0:
        raise InputError("cross_entropy: input has no dimensions; pass (C,), (N, C) or (N, C, ...)")
    checks.floating("cross_entropy", "input", x)
    checks.same_device("cross_entropy", "input", x, target=target, weight=weight)
    classes = reference.class_count(x)
    if weight is not None and tuple(weight.shape) != (classes,):
        raise InputError(
            f"cross_entropy: weight has shape {tuple(weight.shape)}, input has {classes} classes; "
            f"pass weight of shape ({classes},) or None"
        )
    if target.shape == x.shape:
        checks.floating("cross_entropy", "target of input's shape (probabilities)", target)
        if ignore_index >= 0:
            raise InputError(
                f"cross_entropy: ignore_index {ignore_index} is for class indices, the target is "
                "probabilities; weight the rows by hand with reduction='none'"
            )
        return target

    if target.dtype not in (torch.int64, torch.uint8):
        raise InputError(
            f"cross_entropy: target has dtype {checks.dtype_name(target.dtype)} and shape "
            f"{tuple(target.shape)}; pass class indices as int64, or probabilities of input's shape "
            f"{tuple(x.shape)}"
        )
    shape = x.shape[:0] if x.dim() == 1 else x.shape[:1] + x.shape[2:]
    if x.dim() == 1 and target.shape == (1,):
        target = target.reshape(())
    if target.shape != shape:
        raise InputError(
            f"cross_entropy: input of shape {tuple(x.shape)} asks for class indices of shape "
            f"{tuple(shape)}, target has {tuple(target.shape)}"
        )
    if weight is not None:
        checks.same_device_and_dtype("cross_entropy", "input", x, weight=weight)
        if weight.requires_grad and torch.is_grad_enabled():
            raise InputError(
                "cross_entropy: weight has no gradient with class indices; pass weight.detach()"
            )
    return target if target.dtype == torch.int64 else target.long()
