"""Host wrappers of csrc/batch_norm_relu, which works on float32 statistics and parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.batch_norm_relu import reference
from fastmodel.ops.native import DTYPE_CODES, address, threads


def forward_cpu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.forward."""
    x, weight, bias = _dense(x), _float32(weight), _float32(bias)
    out = torch.empty_like(x)
    if training:
        new = x.new_empty if x.numel() else x.new_zeros
        mean, var = (new(x.shape[1], dtype=torch.float32) for _ in range(2))
    else:
        assert running_mean is not None and running_var is not None
        mean, var = (
            s.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            for s in (running_mean, running_var)
        )
    native().batch_norm_relu_forward_cpu(
        *_problem(x, weight, bias, training, eps), address(mean), address(var), address(out)
    )
    return out, mean, var


def backward_cpu(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    x = _dense(x)
    if grad.stride() != x.stride():
        grad = torch.empty_like(x).copy_(grad)
    own_weight, own_bias = _float32(weight), _float32(bias)
    channels = x.shape[1]
    grad_x = torch.empty_like(x) if wanted[0] else x.new_empty(0)
    grad_weight, grad_bias = (
        x.new_empty(channels if want else 0, dtype=torch.float32) for want in wanted[1:]
    )
    native().batch_norm_relu_backward_cpu(
        *_problem(x, own_weight, own_bias, training, eps),
        address(grad),
        address(mean),
        address(var),
        address(grad_x) if wanted[0] else 0,
        address(grad_weight) if wanted[1] else 0,
        address(grad_bias) if wanted[2] else 0,
    )
    return grad_x, _like(grad_weight, weight), _like(grad_bias, bias)


def update_cpu(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
) -> None:
    """As reference.update."""
    own_mean, own_var = _float32(running_mean), _float32(running_var)
    native().batch_norm_relu_update_cpu(
        *map(address, (own_mean, own_var, mean, var)), mean.numel(), count, momentum
    )
    for running, own in ((running_mean, own_mean), (running_var, own_var)):
        if own is not None and own is not running:
            running.copy_(own)


def _problem(x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, eps: float):
    """As `problem` in batch_norm_relu_bindings.cpp takes it."""
    n, c, h, w = x.shape
    # An image of one pixel is both; as a row of channels it is the longer run.
    is_channels_last = h * w == 1 or not x.is_contiguous()
    return (
        address(x),
        address(weight),
        address(bias),
        (n, c, h * w),
        is_channels_last,
        training,
        eps,
        DTYPE_CODES[x.dtype],
        threads(),
    )


def _dense(x: Tensor) -> Tensor:
    like = reference.dense(x)
    return x if like is x else like.copy_(x)


def _float32(value: Tensor | None) -> Tensor | None:
    if value is None or (value.dtype == torch.float32 and value.is_contiguous()):
        return value
    return value.to(torch.float32).contiguous()


def _like(grad: Tensor, parameter: Tensor | None) -> Tensor:
    if parameter is None or parameter.dtype == torch.float32:
        return grad
    return grad.to(parameter.dtype)
