"""linear_relu_dropout as a PyTorch op, and its functional face."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops import eager, linear_layer, native, register
from fastmodel.ops.linear_relu_dropout import reference


def _forward_fake(x, weight, bias, seed, p):
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _backward_fake(grad, x, weight, out, p, wanted):
    return linear_layer.gradients_like(x, weight, wanted)


_forward = register.op(
    "linear_relu_dropout(Tensor x, Tensor weight, Tensor? bias, Tensor seed, float p) -> Tensor",
    fake=_forward_fake,
)
_backward = register.op(
    "linear_relu_dropout_backward(Tensor grad, Tensor x, Tensor weight, Tensor out, float p,"
    " bool[3] wanted) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, weight, _, _, ctx.p = inputs
    ctx.save_for_backward(x, weight, output)


def _derivative(ctx, grad):
    wanted = list(ctx.needs_input_grad[:3])
    found = _call_backward(grad, *ctx.saved_tensors, ctx.p, wanted)
    gradients = [value if want else None for value, want in zip(found, wanted, strict=True)]
    return (*gradients, None, None)


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward)
register.flops(_forward, linear_layer.forward_flops)
register.flops(_backward, linear_layer.backward_flops)


def linear_relu_dropout(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    training: bool = True,
) -> Tensor:
    """Linear layer, ReLU and dropout: out = relu(x @ weight.T + bias) * keep / (1 - p).

    Each element is kept with probability 1 - p, independently. The mask comes from a counter-based generator
    whose seed is drawn from PyTorch's default generator, so `torch.manual_seed` governs it; it is another
    mask than `torch.nn.functional.dropout` would draw.

    Args:
        x: (..., in_features), any strides, any floating dtype.
        weight: (out_features, in_features), dtype of x.
        bias: (out_features,), dtype of x, or None.
        p: in [0, 1], how probable it is that an element is dropped.
        training: False to drop nothing.

    Returns:
        (..., out_features), contiguous, dtype of x; under autocast the dtype of the region. Inputs are
        left as they are; the result is deterministic for a seed and a fixed thread count, the mask for a
        seed alone.

    Raises:
        InputError: shapes, dtypes or devices do not fit together, or p is out of range.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    linear_layer.check("linear_relu_dropout", x, weight, bias)
    if not 0.0 <= p <= 1.0:
        raise InputError(f"linear_relu_dropout: p must be between 0.0 and 1.0, it is {p}")
    if not training or p == 0.0:
        no_seed = torch.zeros((), dtype=torch.int64, device="cpu")
        return _call_forward(x, weight, bias, no_seed, 0.0)
    if native.is_captured(x):
        # The graph would repeat one seed, and so one mask; PyTorch's dropout draws anew in each replay.
        return F.dropout(torch.ops.fastmodel.linear_relu(x, weight, bias), p)
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
    return _call_forward(x, weight, bias, seed, float(p))
