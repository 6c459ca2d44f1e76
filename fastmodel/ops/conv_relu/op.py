"""conv_relu as a PyTorch op, and its functional face."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmodel.ops import checks, conv, eager, register
from fastmodel.ops.conv_relu import reference

_OP = "conv_relu"


def _forward_fake(x, weight, bias, stride, padding, dilation, groups) -> Tensor:
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    out = x.new_empty((x.shape[0], weight.shape[0], p, q))
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def _backward_fake(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    return conv.new_gradients(x, weight, wanted)


_CONV = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"

_forward = register.op(
    f"{_OP}(Tensor x, Tensor weight, Tensor? bias, {_CONV}) -> Tensor", fake=_forward_fake
)
_backward = register.op(
    f"{_OP}_backward(Tensor grad, Tensor x, Tensor weight, Tensor out, {_CONV}, bool[3] wanted)"
    " -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, output)


def _derivative(ctx, grad):
    wanted = list(ctx.needs_input_grad[:3])
    found = _call_backward(grad, *ctx.saved_tensors, *ctx.geometry, wanted)
    values = [value if want else None for value, want in zip(found, wanted, strict=True)]
    return (*values, *[None] * len(ctx.geometry))


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward)
register.flops(_forward, conv.forward_flops)
register.flops(_backward, conv.backward_flops)


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution and ReLU: out = relu(conv2d(x, weight, bias)).

    Args:
        x: (N, C, H, W) or (C, H, W), any strides, any floating dtype.
        weight: (K, C / groups, R, S), dtype of x.
        bias: (K,), dtype of x, or None.
        stride: one or two integers.
        padding: zeros around x, one or two integers, 'valid' or 'same' (stride 1 only).
        dilation: between filter taps, one or two integers.
        groups: of channels.

    Returns:
        (N, K, P, Q) or (K, P, Q), channels_last if x or weight is, dtype of x; under autocast the dtype of
        the region. Inputs are left as they are; the result is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    if x.dim() == 3:
        return conv_relu(x[None], weight, bias, stride, padding, dilation, groups)[0]
    border, options = _geometry(x.shape, weight.shape, stride, padding, dilation, groups)
    conv.check(_OP, x, weight, bias)
    return _call_forward(conv.add_border(x, border), weight, bias, *options)


@checks.once_per_signature
def _geometry(x_shape, weight_shape, stride, padding, dilation, groups):
    """The border to add to x, and the op's arguments behind bias."""
    geometry = conv.geometry(_OP, x_shape, weight_shape, stride, padding, dilation, groups)
    conv.check_output(_OP, "the output", geometry.size, x_shape)
    return geometry.border, geometry.options()
