"""linear_relu as a PyTorch op, and its functional face."""

from __future__ import annotations

import math

from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops import checks, eager, register
from fastmodel.ops.linear_relu import reference


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _backward_fake(grad, x, weight, out, wanted):
    return (
        x.new_empty(x.shape if wanted[0] else (0,)),
        x.new_empty(weight.shape if wanted[1] else (0,)),
        x.new_empty((weight.shape[0],) if wanted[2] else (0,)),
    )


_forward = register.op(
    "linear_relu(Tensor x, Tensor weight, Tensor? bias) -> Tensor", fake=_forward_fake
)
_backward = register.op(
    "linear_relu_backward(Tensor grad, Tensor x, Tensor weight, Tensor out, bool[3] wanted)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output)


def _derivative(ctx, grad):
    wanted = list(ctx.needs_input_grad)
    found = _call_backward(grad, *ctx.saved_tensors, wanted)
    return tuple(value if want else None for value, want in zip(found, wanted, strict=True))


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward)


def _forward_flops(x, weight, bias, *, out_shape=None, **_) -> int:
    return 2 * math.prod(x) * weight[0]


def _backward_flops(grad, x, weight, out, wanted, *, out_shape=None, **_) -> int:
    return 2 * math.prod(x) * weight[0] * (wanted[0] + wanted[1])


register.flops(_forward, _forward_flops)
register.flops(_backward, _backward_flops)


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer followed by ReLU: out = relu(x @ weight.T + bias).

    Args:
        x: (..., in_features), any strides, any floating dtype.
        weight: (out_features, in_features), dtype of x.
        bias: (out_features,), dtype of x, or None.

    Returns:
        (..., out_features), contiguous, dtype of x; under autocast the dtype of the region. Inputs are
        left as they are; the result is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    if weight.dim() != 2:
        raise InputError(
            f"linear_relu: weight must have shape (out_features, in_features), "
            f"it has {tuple(weight.shape)}"
        )
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise InputError(
            f"linear_relu: weight expects {weight.shape[1]} input features, x has shape "
            f"{tuple(x.shape)}; pass x of shape (..., {weight.shape[1]})"
        )
    checks.floating("linear_relu", "x", x)
    checks.bias_shape("linear_relu", bias, weight.shape[0])
    checks.same_device_and_dtype("linear_relu", "x", x, weight=weight, bias=bias)
    return _call_forward(x, weight, bias)
