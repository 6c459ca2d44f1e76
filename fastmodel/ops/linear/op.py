"""linear as a PyTorch op, and its functional face."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import eager, linear_layer, register
from fastmodel.ops.linear import reference


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear_layer.out_like(x, weight)


def _backward_fake(grad, x, weight, wanted):
    return linear_layer.gradients_like(x, weight, wanted)


_forward = register.op(
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", fake=_forward_fake
)
_backward = register.op(
    "linear_backward(Tensor grad, Tensor x, Tensor weight, bool[3] wanted)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _derivative(ctx, grad):
    wanted = list(ctx.needs_input_grad)
    found = _call_backward(grad, *ctx.saved_tensors, wanted)
    return tuple(value if want else None for value, want in zip(found, wanted, strict=True))


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward)
register.flops(_forward, linear_layer.forward_flops)
register.flops(_backward, linear_layer.backward_flops)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer, as `torch.nn.functional.linear`: out = input @ weight.T + bias.

    Args:
        input: (..., in_features), any strides, any floating dtype.
        weight: (out_features, in_features), dtype of input.
        bias: (out_features,), dtype of input, or None.

    Returns:
        (..., out_features), contiguous, dtype of input; under autocast the dtype of the region. Inputs are
        left as they are; the result is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    linear_layer.check("linear", input, weight, bias)
    return _call_forward(input, weight, bias)
