"""The terms of which a batch norm's outputs and gradients are sums, all taken as positive.

    out = d weight + bias,  d = (x - mean) / std
    grad_x = (g - sum g / n - d sum g d / n) weight / std,  grad_weight = sum g d,  grad_bias = sum g

Rounding any of them moves the result by up to eps times that term; `verify` makes its bounds of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_PIXELS = (0, 2, 3)


def of_output(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Of each output."""
    distance, _ = _distance_and_std(norm, x)
    bias = 0.0 if norm.bias is None else norm.bias.detach().abs()[:, None, None]
    return distance * _weight(norm) + bias


def of_gradients(norm: nn.BatchNorm2d, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Of the gradients that are wanted: of x, weight and bias."""
    distance, std = _distance_and_std(norm, x)
    grad = grad.abs()
    along = (grad * distance).sum(_PIXELS)
    of_x = grad
    if _uses_batch(norm):
        count = x.numel() // x.shape[1]
        of_x = grad + (grad.sum(_PIXELS) / count)[:, None, None]
        of_x = of_x + distance * (along / count)[:, None, None]
    found = [(x, of_x * _weight(norm) / std), (norm.weight, along), (norm.bias, grad.sum(_PIXELS))]
    return [terms for of, terms in found if of is not None and of.requires_grad]


def _distance_and_std(norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """(|x| + |mean|) / std, and std."""
    x = x.detach()
    if _uses_batch(norm):
        var, mean = torch.var_mean(x, _PIXELS, correction=0)
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, var = norm.running_mean, norm.running_var
    std = (var + norm.eps).sqrt()[:, None, None]
    return (x.abs() + mean.abs()[:, None, None]) / std, std


def _uses_batch(norm: nn.BatchNorm2d) -> bool:
    return norm.training or norm.running_mean is None


def _weight(norm: nn.BatchNorm2d) -> Tensor | float:
    return 1.0 if norm.weight is None else norm.weight.detach().abs()[:, None, None]
