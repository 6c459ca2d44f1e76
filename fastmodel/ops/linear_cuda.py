"""Wrappers of csrc/linear's CUDA kernels: a linear layer and its activation, the products by PyTorch.

Forward is the library's product and one pass over it; backward one pass that takes the gradient through the
activation and sums the bias' gradient, and the library's two products. A ReLU's forward is one product with
its epilogue, where the library keeps NaN in it.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.env import cuda
from fastmodel.ops import linear_layer
from fastmodel.ops.native import GPU_DTYPE_CODES, address, stream

_CODES = {"relu": 0, "gelu": 1, "silu": 2, "sigmoid": 3, "tanh": 4}
"""As in csrc/linear/linear_cuda.h."""


class CudaActivation:
    """The wrappers for out = activation(pre), pre = x @ weight.T + bias, of one activation.

    Backward reads `saved`: out for relu, sigmoid and tanh, pre for gelu and silu.
    """

    def __init__(self, activation: str) -> None:
        self._code = _CODES[activation]
        self._has_epilogue = activation == "relu"

    def forward_out(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """activation(x @ weight.T + bias)."""
        if self._has_epilogue and bias is not None and epilogue_keeps_nan(x.device, x.dtype):
            return product_and_relu(x, weight, bias)
        return self.forward_pre(x, weight, bias, False)[0]

    def forward_pre(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, keeps_pre: bool
    ) -> tuple[Tensor, Tensor]:
        """activation(pre), and pre, which is empty where it is not kept."""
        pre = F.linear(x, weight, bias).contiguous()
        out = torch.empty_like(pre) if keeps_pre else pre
        cuda().linear_apply_cuda(
            self._code,
            address(pre),
            address(out),
            out.numel(),
            GPU_DTYPE_CODES[x.dtype],
            stream(x),
        )
        return out, pre if keeps_pre else out.new_empty(0)

    def backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, saved: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias; empty for each that is not wanted."""
        outs = weight.shape[0]
        rows = math.prod(x.shape[:-1])
        grad, saved = grad.reshape(rows, outs).contiguous(), saved.contiguous()
        chained = torch.empty_like(grad)
        grad_bias = grad.new_empty(outs if wanted[2] else 0)
        partials = None
        if wanted[2]:
            count = cuda().linear_chain_partials_cuda(rows)
            partials = grad.new_empty(count * outs, dtype=torch.float32)
        cuda().linear_chain_cuda(
            self._code,
            address(grad),
            address(saved),
            address(chained),
            address(grad_bias) if wanted[2] else 0,
            address(partials),
            rows,
            outs,
            GPU_DTYPE_CODES[x.dtype],
            stream(x),
        )
        return linear_layer.library_gradients(chained, x, weight, grad_bias, wanted)


def product_and_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(x @ weight.T + bias) as one call of the library's, with both in its epilogue."""
    outs, ins = weight.shape
    flat = x.reshape(math.prod(x.shape[:-1]), ins)
    return torch._addmm_activation(bias, flat, weight.t()).view(*x.shape[:-1], outs)


@functools.cache
def epilogue_keeps_nan(device: torch.device, dtype: torch.dtype) -> bool:
    """Does the library's ReLU epilogue answer NaN with NaN, as PyTorch's ReLU does? Tried once a device."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("linear_relu: capture the step after a first one that is not captured")
    sides = torch.full((32, 32), torch.nan, device=device, dtype=dtype)
    bias = torch.zeros(32, device=device, dtype=dtype)
    return bool(product_and_relu(sides, sides, bias).isnan().all())
