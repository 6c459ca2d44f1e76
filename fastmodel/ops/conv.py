"""Geometry that the convolution ops share: output sizes, argument forms, checks, memory formats."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops import checks
from fastmodel.ops.native import address

Pair = tuple[int, int]


def pair(op: str, name: str, value, least: int) -> Pair:
    """An int or a pair of ints as a pair, each at least `least`.

    Raises:
        InputError: it is neither, or too small.
    """
    first, second = value, value
    if not isinstance(value, int):
        values = tuple(value)
        if len(values) not in (1, 2):
            raise _not_a_pair(op, name, value, least)
        first, second = values[0], values[-1]
    if not (isinstance(first, int) and isinstance(second, int) and first >= least <= second):
        raise _not_a_pair(op, name, value, least)
    return first, second


def _not_a_pair(op: str, name: str, value, least: int) -> InputError:
    return InputError(f"{op}: {name} must be one or two integers >= {least}, it is {value!r}")


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Pixels along one axis of a convolution's or pool's output (floor mode)."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def pooled_size(size: Pair, kernel, stride, padding) -> Pair:
    """(PP, PQ) of a pool over an output of `size` pixels."""
    return (
        output_size(size[0], kernel[0], stride[0], padding[0], 1),
        output_size(size[1], kernel[1], stride[1], padding[1], 1),
    )


def _resolve_padding(op: str, weight_shape, stride: Pair, padding, dilation: Pair):
    """Padding as a symmetric pair, and the rows and columns that 'same' adds below and right of x."""
    if not isinstance(padding, str):
        return pair(op, "padding", padding, 0), (0, 0)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise InputError(f"{op}: padding must be integers, 'same' or 'valid', it is {padding!r}")
    if stride != (1, 1):
        raise InputError(f"{op}: padding='same' needs stride 1, it is {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, weight_shape[2:], strict=True)]
    return (total[0] // 2, total[1] // 2), (total[0] % 2, total[1] % 2)


class Geometry(NamedTuple):
    """A convolution's options in their one form, and the (P, Q) they make."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    border: Pair
    """Rows of zeros to add below x and columns right of it, before `padding`."""
    size: Pair

    def options(self) -> tuple[Pair, Pair, Pair, int]:
        """As the ops take them."""
        return self.stride, self.padding, self.dilation, self.groups


def geometry(op: str, x_shape, weight_shape, stride, padding, dilation, groups: int) -> Geometry:
    """Check shapes and options of a convolution of x (N, C, H, W); they may be symbolic.

    Raises:
        InputError: they do not fit together.
    """
    if len(weight_shape) != 4:
        raise InputError(
            f"{op}: weight must have shape (K, C / groups, R, S), it has {tuple(weight_shape)}"
        )
    channels = weight_shape[1] * groups
    if groups < 1 or weight_shape[0] % groups:
        raise InputError(
            f"{op}: groups must divide weight's {weight_shape[0]} output channels, it is {groups}"
        )
    if len(x_shape) != 4 or x_shape[1] != channels:
        got = f"has {x_shape[1]}" if len(x_shape) == 4 else f"has shape {tuple(x_shape)}"
        raise InputError(
            f"{op}: weight expects {channels} input channels, x {got}; "
            f"pass x of shape (N, {channels}, H, W)"
        )
    stride = pair(op, "stride", stride, 1)
    dilation = pair(op, "dilation", dilation, 1)
    padding, border = _resolve_padding(op, weight_shape, stride, padding, dilation)
    h, w = x_shape[2] + border[0], x_shape[3] + border[1]
    size = (
        output_size(h, weight_shape[2], stride[0], padding[0], dilation[0]),
        output_size(w, weight_shape[3], stride[1], padding[1], dilation[1]),
    )
    return Geometry(stride, padding, dilation, groups, border, size)


def check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Dtypes, devices and the bias fit together.

    Raises:
        InputError: they do not.
    """
    checks.floating(op, "x", x)
    checks.bias_shape(op, bias, weight.shape[0])
    checks.same_device_and_dtype(op, "x", x, weight=weight, bias=bias)


def add_border(x: Tensor, border: Pair) -> Tensor:
    """x with that many more rows and columns of zeros, below and right."""
    return F.pad(x, (0, border[1], 0, border[0])) if border != (0, 0) else x


def check_output(op: str, what: str, size: Pair, of: tuple[int, ...]) -> None:
    """The output has at least one pixel.

    Raises:
        InputError: the kernel does not fit.
    """
    if size[0] < 1 or size[1] < 1:
        raise InputError(
            f"{op}: {what} would be {size[0]} x {size[1]} for x of shape {tuple(of)}; "
            "pass larger images or a smaller kernel"
        )


def conv_output_size(x: Tensor, weight: Tensor, stride, padding, dilation) -> tuple[int, int]:
    """(P, Q) of a convolution."""
    return (
        output_size(x.shape[2], weight.shape[2], stride[0], padding[0], dilation[0]),
        output_size(x.shape[3], weight.shape[3], stride[1], padding[1], dilation[1]),
    )


def memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The format of a convolution's output: channels_last if either operand has it, as in PyTorch."""
    is_last = any(
        t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
        for t in (x, weight)
    )
    return torch.channels_last if is_last else torch.contiguous_format


@functools.lru_cache(maxsize=1024)
def native_sizes(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    pool_kernel: Pair = (1, 1),
    pool_stride: Pair = (1, 1),
    pool_padding: Pair = (0, 0),
) -> tuple[int, ...]:
    """The sizes as csrc/common/conv_shape.h reads them."""
    n, c, h, w = x_shape
    k, _, r, s = weight_shape
    p = output_size(h, r, stride[0], padding[0], dilation[0])
    q = output_size(w, s, stride[1], padding[1], dilation[1])
    return (
        *(n, c, h, w, k, r, s),
        *stride,
        *padding,
        *dilation,
        *(p, q),
        *pool_kernel,
        *pool_stride,
        *pool_padding,
        *pooled_size((p, q), pool_kernel, pool_stride, pool_padding),
    )


def is_depthwise(x: Tensor, weight: Tensor, groups: int) -> bool:
    """Has every channel a filter of its own?"""
    return groups == x.shape[1] == weight.shape[0] and groups > 1


def native_condition(x: Tensor, weight: Tensor, padding: Pair, groups: int) -> str | None:
    """Why the native convolutions do not take these tensors, or None if they do."""
    if groups != 1:
        return "groups"
    h, w = x.shape[2] + 2 * padding[0], x.shape[3] + 2 * padding[1]
    if x.shape[1] * h * w >= 2**31 or weight.numel() >= 2**31:
        return "an image or the weight has 2^31 elements or more"
    return None


def winograd_condition(weight: Tensor, stride, padding, dilation, groups: int) -> str | None:
    """Why the Winograd kernels do not take this convolution, or None if they do."""
    taps = weight.shape[2:]
    if not all(3 <= side <= 6 for side in taps) or tuple(stride) != (1, 1):
        return "its filters are not of 3 to 6 taps a side and stride 1"
    if groups != 1:
        return "groups"
    reach = [step * (side - 1) for step, side in zip(dilation, taps, strict=True)]
    if any(pad > most for pad, most in zip(padding, reach, strict=True)):
        return "the border is wider than the filters"
    return None


def winograd_worth(x: Tensor, weight: Tensor) -> str | None:
    """None where Winograd's products are large enough to pay for their transforms, else the reason."""
    if min(weight.shape[0], weight.shape[1]) < 32:
        return "few channels: the transforms cost more than they save"
    return None


def flops(x_shape, weight_shape, p: int, q: int) -> int:
    """Multiply-adds of a convolution, counted as two each."""
    k, c, r, s = weight_shape
    return 2 * x_shape[0] * p * q * k * c * r * s


def forward_flops(x, weight, bias, stride, padding, dilation, *_, out_shape=None, **__) -> int:
    """FLOP formula of a forward op; tensors come as shapes."""
    p = output_size(x[2], weight[2], stride[0], padding[0], dilation[0])
    q = output_size(x[3], weight[3], stride[1], padding[1], dilation[1])
    return flops(x, weight, p, q)


def backward_flops(grad, x, weight, saved, *rest, out_shape=None, **_) -> int:
    """FLOP formula of a backward op: one product for each of grad_x and grad_weight that is wanted."""
    wanted = rest[-1]
    return forward_flops(x, weight, None, *rest) * (wanted[0] + wanted[1])


def dense_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride, padding, dilation, groups: int, wanted
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias from the dense gradient of the convolution's output.

    PyTorch's own, differentiable, laid out as `new_gradients` has them; an empty tensor for each that
    `wanted` leaves out.
    """
    bias_sizes = [weight.shape[0]]
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, x, weight, bias_sizes, stride, padding, dilation, False, [0, 0], groups, wanted
    )
    empty = grad.new_empty
    return (
        laid_out_like(grad_x, x) if wanted[0] else empty(0),
        laid_out_like(grad_weight, weight) if wanted[1] else empty(0),
        grad_bias if wanted[2] else empty(0),
    )


def laid_out_like(value: Tensor, like: Tensor) -> Tensor:
    """`value` with the strides of `like`, which has its shape."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


def new_gradients(x: Tensor, weight: Tensor, wanted) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised gradients of x (its layout if dense), weight and bias; empty where not wanted."""
    return (
        torch.empty_like(x) if wanted[0] else x.new_empty(0),
        torch.empty_like(weight) if wanted[1] else x.new_empty(0),
        x.new_empty(weight.shape[0] if wanted[2] else 0),
    )


def gradients(
    kernel: Callable, sizes: tuple[int, ...], grad, x, weight, saved, wanted, *rest
) -> tuple[tuple[Tensor, Tensor, Tensor], Any]:
    """Of x, weight and bias, by a native kernel, and what the kernel itself returned.

    `saved` is what forward kept of its output; grad and saved come in with channels innermost. `rest` are the
    kernel's last arguments, which tell its device's own.
    """
    grad = grad.contiguous(memory_format=torch.channels_last)
    saved = saved.contiguous(memory_format=torch.channels_last)
    grad_x, grad_weight, grad_bias = new_gradients(x, weight, wanted)
    returned = kernel(
        sizes,
        address(grad),
        address(saved),
        address(x),
        x.stride(),
        address(weight),
        weight.stride(),
        address(grad_x) if wanted[0] else 0,
        grad_x.stride() if wanted[0] else x.stride(),
        address(grad_weight) if wanted[1] else 0,
        grad_weight.stride() if wanted[1] else weight.stride(),
        address(grad_bias) if wanted[2] else 0,
        *rest,
    )
    return (grad_x, grad_weight, grad_bias), returned


def module_padding(module: torch.nn.Conv2d, x: Tensor):
    """x and the padding left to do: an `nn.Conv2d` pads by itself where padding_mode is not zeros."""
    if module.padding_mode == "zeros":
        return x, module.padding
    return F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode), 0
