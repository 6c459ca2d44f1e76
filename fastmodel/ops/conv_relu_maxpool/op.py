"""conv_relu_maxpool as a PyTorch op, and its functional face."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops import checks, conv, eager, register
from fastmodel.ops.conv_relu_maxpool import reference

_OP = "conv_relu_maxpool"


def _forward_fake(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
) -> tuple[Tensor, Tensor]:
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    pooled = conv.pooled_size((p, q), pool_kernel, pool_stride, pool_padding)
    shape = (x.shape[0], weight.shape[0], *pooled)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return out, torch.empty_like(out, dtype=torch.uint8)


def _backward_fake(grad, x, weight, argmax, stride, padding, dilation, groups, *rest):
    return conv.new_gradients(x, weight, rest[-1])


_CONV = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
_POOL = "SymInt[2] pool_kernel, SymInt[2] pool_stride, SymInt[2] pool_padding"

_forward = register.op(
    f"{_OP}(Tensor x, Tensor weight, Tensor? bias, {_CONV}, {_POOL}) -> (Tensor, Tensor)",
    fake=_forward_fake,
)
_backward = register.op(
    f"{_OP}_backward(Tensor grad, Tensor x, Tensor weight, Tensor argmax, {_CONV}, {_POOL},"
    " bool[3] wanted) -> (Tensor, Tensor, Tensor)",
    fake=_backward_fake,
    pass_="backward",
)

_call_backward = eager.backward(_backward)


def _setup_context(ctx, inputs, output):
    x, weight, _, *ctx.geometry = inputs
    _, argmax = output
    ctx.mark_non_differentiable(argmax)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, argmax)


def _derivative(ctx, grad, _):
    wanted = list(ctx.needs_input_grad[:3])
    if grad is None or not any(wanted):
        return (None,) * (3 + len(ctx.geometry))
    x, weight, argmax = ctx.saved_tensors
    found = _call_backward(grad, x, weight, argmax, *ctx.geometry, wanted)
    values = [value if want else None for value, want in zip(found, wanted, strict=True)]
    return (*values, *[None] * len(ctx.geometry))


register.autograd(_forward, _setup_context, _derivative)
_call_forward = eager.forward(_forward, _setup_context, _derivative)
register.autograd_through_reference(_backward, reference.backward)
register.autocast(_forward)
register.flops(_forward, conv.forward_flops)
register.flops(_backward, conv.backward_flops)


def conv_relu_maxpool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    pool_kernel_size: int | Sequence[int] = 2,
    pool_stride: int | Sequence[int] | None = None,
    pool_padding: int | Sequence[int] = 0,
) -> Tensor:
    """Convolution, ReLU and max-pool: out = max_pool2d(relu(conv2d(x, weight, bias))).

    Args:
        x: (N, C, H, W) or (C, H, W), any strides, any floating dtype.
        weight: (K, C / groups, R, S), dtype of x.
        bias: (K,), dtype of x, or None.
        stride: of the convolution, one or two integers.
        padding: zeros around x, one or two integers, 'valid' or 'same' (stride 1 only).
        dilation: between filter taps, one or two integers.
        groups: of channels.
        pool_kernel_size: of the max-pool, one or two integers; at most 254 pixels a window.
        pool_stride: of the max-pool; None for pool_kernel_size.
        pool_padding: around the convolution's output, never a maximum; at most half of pool_kernel_size.

    Returns:
        (N, K, PP, PQ) or (K, PP, PQ), channels_last, dtype of x; under autocast the dtype of the region.
        Inputs are left as they are; the result is deterministic for a fixed thread count. Where several
        pixels of a window are equal the first gets the gradient; layers of 3 x 3 to 6 x 6 filters over many
        channels are computed by Winograd's algorithm, where equal means equal after its rounding.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    if x.dim() == 3:
        pool = (pool_kernel_size, pool_stride, pool_padding)
        return conv_relu_maxpool(x[None], weight, bias, stride, padding, dilation, groups, *pool)[0]
    options = (stride, padding, dilation, groups, pool_kernel_size, pool_stride, pool_padding)
    border, options = _geometry(x.shape, weight.shape, *options)
    conv.check(_OP, x, weight, bias)
    return _call_forward(conv.add_border(x, border), weight, bias, *options)[0]


@checks.once_per_signature
def _geometry(
    x_shape, weight_shape, stride, padding, dilation, groups, kernel_size, pool_stride, pool_padding
):
    """The border to add to x, and the op's arguments behind bias."""
    geometry = conv.geometry(_OP, x_shape, weight_shape, stride, padding, dilation, groups)
    kernel = conv.pair(_OP, "pool_kernel_size", kernel_size, 1)
    step = kernel if pool_stride is None else conv.pair(_OP, "pool_stride", pool_stride, 1)
    if kernel[0] * kernel[1] > 254:
        raise InputError(
            f"{_OP}: pool_kernel_size {kernel} has more than 254 pixels; "
            "use conv_relu and torch.nn.functional.max_pool2d"
        )
    margin = conv.pair(_OP, "pool_padding", pool_padding, 0)
    if 2 * margin[0] > kernel[0] or 2 * margin[1] > kernel[1]:
        raise InputError(
            f"{_OP}: pool_padding {margin} is more than half of pool_kernel_size {kernel}; "
            "pass a smaller one"
        )
    conv.check_output(_OP, "the convolution's output", geometry.size, x_shape)
    pooled = conv.pooled_size(geometry.size, kernel, step, margin)
    conv.check_output(_OP, "the pooled output", pooled, x_shape)
    return geometry.border, (*geometry.options(), kernel, step, margin)
