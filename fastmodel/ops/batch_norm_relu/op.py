"""batch_norm_relu as a PyTorch op, and its functional face.

The op itself changes nothing: it returns the batch's statistics, and the face moves the running ones. So
compilers see a function and an update in place, and a kernel that is run twice updates once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops import checks, dispatch, eager, register
from fastmodel.ops.batch_norm_relu import reference

_OP = "batch_norm_relu"


def _forward_fake(x, weight, bias, running_mean, running_var, training, eps):
    mean, var = (x.new_empty(x.shape[1], dtype=reference.stats_dtype(x)) for _ in range(2))
    return torch.empty_like(reference.dense(x)), mean, var


def _backward_fake(grad, x, weight, bias, mean, var, training, eps, wanted):
    def like(parameter: Tensor | None, want: bool) -> Tensor:
        dtype = x.dtype if parameter is None or not want else parameter.dtype
        return x.new_empty(x.shape[1] if want else 0, dtype=dtype)

    return (
        torch.empty_like(reference.dense(x)) if wanted[0] else x.new_empty(0),
        like(weight, wanted[1]),
        like(bias, wanted[2]),
    )


_forward = register.op(
    f"{_OP}(Tensor x, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var,"
    " bool training, float eps) -> (Tensor, Tensor, Tensor)",
    fake=_forward_fake,
)
_backward = register.op(
    f"{_OP}_backward(Tensor grad, Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var,"
    " bool training, float eps, bool[3] wanted) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, weight, bias, _, _, *ctx.options = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, var)


def _derivative(ctx, grad, *_):
    wanted = list(ctx.needs_input_grad[:3])
    if grad is None or not any(wanted):
        return (None,) * 7
    found = _call_backward(grad, *ctx.saved_tensors, *ctx.options, wanted)
    gradients = [value if want else None for value, want in zip(found, wanted, strict=True)]
    return (*gradients, None, None, None, None)


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)

# No autocast rule and no FLOP formula: PyTorch has none for its batch norm. Under autocast, x comes as the
# convolution before leaves it, beside float32 parameters.


def batch_norm_relu(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm of images and ReLU, as `relu(torch.nn.functional.batch_norm(...))`.

    out = relu((x - mean) / sqrt(var + eps) * weight + bias), with mean and variance of each channel: of the
    batch in training, else the running ones.

    Args:
        x: (N, C, H, W), any strides, any floating dtype.
        running_mean: (C,), float32 or dtype of x; None for none. In training it becomes
            momentum * mean + (1 - momentum) * running_mean, in place; an empty batch leaves it.
        running_var: (C,), likewise, from the unbiased variance; None where running_mean is.
        weight: (C,), dtype of the running statistics, or None for ones.
        bias: (C,), dtype of the running statistics, or None for zeros.
        training: normalise by the batch's own statistics.
        momentum: how far the running statistics go towards the batch's.
        eps: added to the variance.

    Returns:
        (N, C, H, W), dtype of x, channels_last if x is. x, weight and bias are left as they are; the result
        is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together, there is one value per channel in training
            or eps is not positive, or there are no running statistics outside of it.
        BackendError: `use_backend` asked for a backend that cannot serve the call.

    Source:
        Ioffe and Szegedy, "Batch Normalization", 2015; moments as Chan, Golub and LeVeque add them.
    """
    statistics = {"running_mean": running_mean, "running_var": running_var}
    channels = statistics | {"weight": weight, "bias": bias}
    shapes = tuple(None if t is None else t.shape for t in channels.values())
    count = _check_shapes(x.shape, shapes, training)
    checks.floating(_OP, "x", x)
    if training and eps <= 0.0:
        raise InputError(f"{_OP}: eps must be positive in training, it is {eps}")
    _check_dtypes(x, channels)
    out, mean, var = _call_forward(x, weight, bias, running_mean, running_var, training, eps)
    if training and running_mean is not None and running_var is not None and count:
        _update(running_mean, running_var, mean, var, momentum, count)
    return out


def _update(running_mean, running_var, mean, var, momentum: float, count: int) -> None:
    arguments = (running_mean, running_var, mean, var, momentum, count)
    if eager.is_plain((running_mean, mean)):
        dispatch.run(_OP, "update", *arguments)
    else:
        reference.update(*arguments)


@checks.once_per_signature
def _check_shapes(x_shape, shapes, training: bool) -> int:
    """How many values a channel has."""
    if len(x_shape) != 4:
        raise InputError(f"{_OP}: x must have shape (N, C, H, W), it has {tuple(x_shape)}")
    n, channels, h, w = x_shape
    for name, shape in zip(("running_mean", "running_var", "weight", "bias"), shapes, strict=True):
        if shape is not None and tuple(shape) != (channels,):
            raise InputError(
                f"{_OP}: {name} has shape {tuple(shape)}; x asks for shape ({channels},) or None"
            )
    if (shapes[0] is None) != (shapes[1] is None):
        raise InputError(f"{_OP}: pass running_mean and running_var both, or None for both")
    if not training and shapes[0] is None:
        raise InputError(f"{_OP}: outside of training, pass running_mean and running_var")
    count = n * h * w
    if training and count == 1:
        raise InputError(
            f"{_OP}: training needs more than 1 value per channel, x has shape {tuple(x_shape)}; "
            "pass a larger batch"
        )
    return count


def _check_dtypes(x: Tensor, channels: dict[str, Tensor | None]) -> None:
    """Of one dtype, that of x, or float32 beside a lower one; and on one device."""
    given = {name: tensor for name, tensor in channels.items() if tensor is not None}
    for name, tensor in given.items():
        is_wider = tensor.dtype == torch.float32 and x.dtype in (torch.bfloat16, torch.float16)
        if tensor.dtype != x.dtype and not is_wider:
            raise InputError(
                f"{_OP}: x is {checks.dtype_name(x.dtype)}, {name} is "
                f"{checks.dtype_name(tensor.dtype)}; convert one"
            )
    checks.same_device(_OP, "x", x, **given)
