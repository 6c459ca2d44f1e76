"""What the ops of a linear layer share: checks, shapes, FLOPs, the wrappers of their kernels, and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel import env
from fastmodel.env import native
from fastmodel.errors import InputError
from fastmodel.ops import checks
from fastmodel.ops.native import DTYPE_CODES, address, threads


def check(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """x (..., in_features), weight (out_features, in_features) and bias (out_features,) fit together.

    Raises:
        InputError: they do not.
    """
    if weight.dim() != 2:
        raise InputError(
            f"{op}: weight must have shape (out_features, in_features), it has {tuple(weight.shape)}"
        )
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise InputError(
            f"{op}: weight expects {weight.shape[1]} input features, x has shape "
            f"{tuple(x.shape)}; pass x of shape (..., {weight.shape[1]})"
        )
    checks.floating(op, "x", x)
    checks.bias_shape(op, bias, weight.shape[0])
    checks.same_device_and_dtype(op, "x", x, weight=weight, bias=bias)


def forward_flops(x, weight, *_, out_shape=None, **__) -> int:
    """Of the forward pass, from shapes."""
    return 2 * math.prod(x) * weight[0]


def backward_flops(grad, x, weight, *rest, out_shape=None, **_) -> int:
    """Of the backward pass, from shapes; the last argument says which gradients are wanted."""
    wanted = rest[-1]
    return 2 * math.prod(x) * weight[0] * (wanted[0] + wanted[1])


def gradients_like(x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Unwritten gradients of x, weight and bias; empty for each that is not wanted."""
    return (
        x.new_empty(x.shape if wanted[0] else (0,)),
        x.new_empty(weight.shape if wanted[1] else (0,)),
        x.new_empty((weight.shape[0],) if wanted[2] else (0,)),
    )


def out_like(x: Tensor, weight: Tensor) -> Tensor:
    """An unwritten output: (..., out_features)."""
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x @ weight.T + bias in plain PyTorch; empty for each that is not wanted."""
    outs, ins = weight.shape
    rows = math.prod(x.shape[:-1])
    flat = grad.reshape(rows, outs)
    unwanted = grad.new_empty
    return (
        grad @ weight if wanted[0] else unwanted(0),
        flat.T @ x.reshape(rows, ins) if wanted[1] else unwanted(0),
        flat.sum(0) if wanted[2] else unwanted(0),
    )


def relu_forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """relu(x @ weight.T + bias)."""
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    outs, ins = weight.shape
    out = x.new_empty((*x.shape[:-1], outs))
    native().linear_relu_forward_cpu(
        address(x),
        address(weight),
        address(bias),
        address(out),
        out.numel() // max(outs, 1),
        ins,
        outs,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return out


def relu_backward_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, scale: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of relu(x @ weight.T + bias), times `scale`; empty for each that is not wanted."""
    grad, x, weight, out = grad.contiguous(), x.contiguous(), weight.contiguous(), out.contiguous()
    outs, ins = weight.shape
    grad_x, grad_weight, grad_bias = gradients_like(x, weight, wanted)
    masked = grad.new_empty(grad.shape, dtype=torch.float32)
    native().linear_relu_backward_cpu(
        address(grad),
        address(x),
        address(weight),
        address(out),
        address(masked),
        address(grad_x) if wanted[0] else 0,
        address(grad_weight) if wanted[1] else 0,
        address(grad_bias) if wanted[2] else 0,
        grad.numel() // max(outs, 1),
        ins,
        outs,
        scale,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return grad_x, grad_weight, grad_bias


def relu_backward_library(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, scale: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As relu_backward_cpu, with the products left to PyTorch."""
    outs = weight.shape[0]
    rows = math.prod(x.shape[:-1])
    grad = grad.reshape(rows, outs).contiguous()
    out = out.contiguous()
    masked = torch.empty_like(grad)
    grad_bias = grad.new_empty(outs if wanted[2] else 0)
    native().linear_relu_mask_cpu(
        address(grad),
        address(out),
        address(masked),
        address(grad_bias) if wanted[2] else 0,
        rows,
        outs,
        scale,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return library_gradients(masked, x, weight, grad_bias, wanted)


def library_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, grad_bias: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The products of a backward whose grad (rows, out_features) and grad_bias are made."""
    return (
        (grad @ weight).reshape(x.shape) if wanted[0] else grad.new_empty(0),
        grad.T @ x.reshape(grad.shape[0], weight.shape[1]) if wanted[1] else grad.new_empty(0),
        grad_bias,
    )


class NativeActivation:
    """The wrappers of csrc/<op> for out = activation(pre), pre = x @ weight.T + bias.

    `cpu` rows are the fused kernels, `library` rows leave the products to PyTorch. Backward reads `saved`,
    of the output's shape, which is for the op's kernels to interpret.
    """

    def __init__(self, op: str) -> None:
        self._op = op

    def _kernel(self, pass_: str) -> Callable[..., None]:
        return getattr(native(), f"{self._op}_{pass_}_cpu")

    def forward_cpu(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, keeps_pre: bool = False
    ) -> tuple[Tensor, Tensor]:
        """out, and pre, which is empty where it is not kept."""
        x, weight = x.contiguous(), weight.contiguous()
        bias = None if bias is None else bias.contiguous()
        outs, ins = weight.shape
        out = out_like(x, weight)
        pre = torch.empty_like(out) if keeps_pre else out.new_empty(0)
        self._kernel("forward")(
            address(x),
            address(weight),
            address(bias),
            address(out),
            address(pre) if keeps_pre else 0,
            out.numel() // max(outs, 1),
            ins,
            outs,
            DTYPE_CODES[x.dtype],
            threads(),
        )
        return out, pre

    def forward_library(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, keeps_pre: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As forward_cpu."""
        pre = F.linear(x, weight, bias).contiguous()
        out = torch.empty_like(pre) if keeps_pre else pre
        self._kernel("apply")(
            address(pre), address(out), out.numel(), DTYPE_CODES[x.dtype], threads()
        )
        return out, pre if keeps_pre else out.new_empty(0)

    def backward_cpu(
        self, grad: Tensor, x: Tensor, weight: Tensor, saved: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias; empty for each that is not wanted."""
        grad, saved = grad.contiguous(), saved.contiguous()
        x, weight = x.contiguous(), weight.contiguous()
        outs, ins = weight.shape
        grad_x, grad_weight, grad_bias = gradients_like(x, weight, wanted)
        chained = grad.new_empty(grad.shape, dtype=torch.float32)
        self._kernel("backward")(
            address(grad),
            address(x),
            address(weight),
            address(saved),
            address(chained),
            address(grad_x) if wanted[0] else 0,
            address(grad_weight) if wanted[1] else 0,
            address(grad_bias) if wanted[2] else 0,
            grad.numel() // max(outs, 1),
            ins,
            outs,
            DTYPE_CODES[x.dtype],
            threads(),
        )
        return grad_x, grad_weight, grad_bias

    def backward_library(
        self, grad: Tensor, x: Tensor, weight: Tensor, saved: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As backward_cpu."""
        outs = weight.shape[0]
        rows = math.prod(x.shape[:-1])
        grad, saved = grad.reshape(rows, outs).contiguous(), saved.contiguous()
        chained = torch.empty_like(grad)
        grad_bias = grad.new_empty(outs if wanted[2] else 0)
        self._kernel("chain")(
            address(grad),
            address(saved),
            address(chained),
            address(grad_bias) if wanted[2] else 0,
            rows,
            outs,
            DTYPE_CODES[x.dtype],
            threads(),
        )
        return library_gradients(chained, x, weight, grad_bias, wanted)


MOST_FORWARD_ROWS, MOST_BACKWARD_ROWS = 512, 512
MOST_WEIGHT_ELEMENTS = 1024 * 1024
"""Bounds: float32 against the library row, 2 cores with AVX-512 (AMD EPYC 9005),
benchmarks/results/epyc-2core/linear_relu.json: forward 1.9x at 64 rows of 1600 to 128 features, 2.2x at
128 rows of 1024 to 1024 and at 512 of 1600 to 128; backward much alike. More were not measured elsewhere.
"""
MORE = 16
"""Times these bounds where PyTorch's product is held back: 2,048 rows of 128 to 512 on the same machine, with
GELU, 1.5x forward and 1.8x backward; of 768 to 3,072, 2.2x and 1.6x."""


def is_library_held_back() -> bool:
    """Does PyTorch's float32 product, Intel's MKL, leave half of this CPU's vectors unused?

    MKL keeps to AVX2 on other makers' CPUs.
    """
    return env.cpu_capability() == "avx512" and env.cpu_vendor() == "AuthenticAMD"


def small(x: Tensor, weight: Tensor, most_rows: int) -> str | None:
    """None where the fused kernel is the faster one, else the reason; most_rows is the pass's bound."""
    more = MORE if x.dtype == torch.float32 and is_library_held_back() else 1
    most_rows *= more
    if weight.numel() > MOST_WEIGHT_ELEMENTS * more:
        return "the weight is larger than any that was measured to win"
    if x.numel() > most_rows * weight.shape[1]:
        return "many rows: blocking over them pays"
    return None
