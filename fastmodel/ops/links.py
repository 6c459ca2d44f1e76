"""The modules of PyTorch that may stand between fused ones in a chain, by kernels where those serve.

Each function takes a module and its input and answers as a fused op does that is taped (`eager.Call`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmodel.env import native
from fastmodel.ops import eager, linear_layer
from fastmodel.ops.linear import native_kernel as linear_kernel
from fastmodel.ops.native import DTYPE_CODES, address, threads


def _linear(module: nn.Linear, x: Tensor) -> eager.Call:
    context: Any = eager.Context()
    args = (x, module.weight, module.bias)
    context.save_for_backward(x, module.weight)
    context.is_native = _is_native(x) and linear_layer.small(x, module.weight, _MOST_ROWS) is None
    out = linear_kernel.forward_cpu(*args) if context.is_native else F.linear(*args)
    return eager.Call(F.linear, args, out, context, _linear_derivative)


_MOST_ROWS = min(linear_layer.MOST_FORWARD_ROWS, linear_layer.MOST_BACKWARD_ROWS)


def _linear_derivative(context: Any, grad: Tensor) -> list[Tensor | None]:
    x, weight = context.saved_tensors
    wanted = list(context.needs_input_grad)
    if context.is_native:
        found = linear_kernel.backward_cpu(grad, x, weight, wanted)
    else:
        found = linear_layer.gradients(grad, x, weight, wanted)
    return [value if want else None for value, want in zip(found, wanted, strict=True)]


def _flatten(module: nn.Flatten, x: Tensor) -> eager.Call:
    context: Any = eager.Context()
    args = (x, module.start_dim, module.end_dim)
    context.shape = x.shape
    context.is_transposed = (
        _is_native(x)
        and x.dim() == 4
        and args[1:] in ((1, -1), (1, 3))
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    if context.is_transposed:
        n, c, h, w = x.shape
        out = x.new_empty((n, c * h * w))
        _transpose(x, out, h * w, c)
    else:
        out = torch.flatten(*args)
    return eager.Call(torch.flatten, args, out, context, _flatten_derivative)


def _flatten_derivative(context: Any, grad: Tensor) -> tuple[Tensor]:
    """In the layout of the input, which the layer before reads it in."""
    if not (context.is_transposed and grad.is_contiguous()):
        return (grad.reshape(context.shape),)
    _, c, h, w = context.shape
    found = torch.empty(
        context.shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last
    )
    _transpose(grad, found, c, h * w)
    return (found,)


def _transpose(x: Tensor, out: Tensor, rows: int, columns: int) -> None:
    native().transpose_cpu(
        address(x), address(out), x.shape[0], rows, columns, x.element_size(), threads()
    )


def _is_native(x: Tensor) -> bool:
    return x.is_cpu and x.dtype in DTYPE_CODES


LINKS: dict[type[nn.Module], Callable[[Any, Tensor], eager.Call] | None] = {
    nn.Flatten: _flatten,
    nn.Identity: None,
    nn.Linear: _linear,
}
"""By type, exactly; None for what hands its input on."""
