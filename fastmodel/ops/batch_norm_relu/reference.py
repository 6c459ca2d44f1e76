"""batch_norm_relu in plain PyTorch: the definition, the oracle and the last fallback.

    out = relu((x - mean) * scale + bias),  scale = weight / sqrt(var + eps)      x, out (N, C, H, W)

mean and var (C,) are those of the batch in training (var the biased one), else the running ones. They and all
arithmetic are float32, or float64 for float64. Backward keeps x, weight, bias, mean and var; the ReLU's mask
is found again from x (NaN counts as alive, as in PyTorch). `update` moves the running statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from fastmodel.ops.conv import laid_out_like

_PIXELS = (0, 2, 3)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """out, and the mean and var that it was made with."""
    wide = x.to(stats_dtype(x))
    if training:
        mean, var = _batch_statistics(wide)
    else:
        assert running_mean is not None and running_var is not None
        mean, var = (s.to(wide.dtype, copy=True) for s in (running_mean, running_var))
    out = torch.relu(_before_relu(wide, weight, bias, mean, var, eps)).to(x.dtype)
    return laid_out_like(out, dense(x)), mean, var


def backward(
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
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    wide, wide_grad = x.to(stats_dtype(x)), grad.to(stats_dtype(x))
    if training:  # again, so that the second derivative goes through them
        mean, var = _batch_statistics(wide)
    is_dead = _before_relu(wide, weight, bias, mean, var, eps) <= 0
    alive = torch.where(is_dead, torch.zeros_like(wide_grad), wide_grad)
    distance, inverse = wide - _spread(mean), (var + eps).rsqrt()
    sums, along = alive.sum(_PIXELS), (alive * distance).sum(_PIXELS) * inverse
    grad_x = alive
    if training:
        count = max(_count(x), 1)
        grad_x = alive - _spread(sums / count) - distance * _spread(inverse * along / count)
    grad_x = (grad_x * _spread(_scale(weight, inverse))).to(x.dtype)
    unwanted = grad.new_empty
    return (
        laid_out_like(grad_x, dense(x)) if wanted[0] else unwanted(0),
        along.to(_dtype(weight, x)) if wanted[1] else unwanted(0),
        sums.to(_dtype(bias, x)) if wanted[2] else unwanted(0),
    )


def update(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
) -> None:
    """running = momentum * batch + (1 - momentum) * running, in place; `count` makes var an unbiased one."""
    for running, batch in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        # Detached from forward-mode derivatives too; rounded once.
        old = running.to(batch.dtype)
        running.copy_(torch.add(momentum * batch.detach(), old, alpha=1.0 - momentum))


def stats_dtype(x: Tensor) -> torch.dtype:
    """The dtype of statistics and arithmetic."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def dense(x: Tensor) -> Tensor:
    """A tensor laid out as the output and the gradient of x are in PyTorch: x itself where it is dense."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return torch.empty_like(x, memory_format=suggest_memory_format(x))


def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    count = max(_count(x), 1)
    mean = x.sum(_PIXELS) / count
    return mean, (x - _spread(mean)).square().sum(_PIXELS) / count


def _before_relu(x, weight, bias, mean, var, eps: float) -> Tensor:
    out = (x - _spread(mean)) * _spread(_scale(weight, (var + eps).rsqrt()))
    return out if bias is None else out + _spread(bias.to(x.dtype))


def _scale(weight: Tensor | None, inverse: Tensor) -> Tensor:
    return inverse if weight is None else inverse * weight.to(inverse.dtype)


def _spread(channel: Tensor) -> Tensor:
    return channel[:, None, None]


def _count(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] * x.shape[3]


def _dtype(parameter: Tensor | None, x: Tensor) -> torch.dtype:
    return x.dtype if parameter is None else parameter.dtype
