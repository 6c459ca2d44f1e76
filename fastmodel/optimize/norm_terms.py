"""The terms of which a layer norm's or RMS norm's outputs and gradients are sums, all taken as positive.

    out = d weight + bias,  d = (x - mean) / s,  s^2 = mean of (x - mean)^2 + eps
    g' = g weight,  grad_x = (g' - mean g' - d mean(g' d)) / s,  grad_weight = sum g d,  grad_bias = sum g

An RMS norm has neither mean nor mean g'.

Rounding any of them moves the result by up to eps times that term; `verify` makes its bounds of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def of_output(norm: nn.Module, x: Tensor) -> Tensor:
    """Of each output."""
    distance, _ = _distance_and_scale(norm, x)
    bias = getattr(norm, "bias", None)
    return distance * _weight(norm) + (0.0 if bias is None else bias.detach().abs())


def of_gradients(norm: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Of the gradients that are wanted: of x, weight and bias."""
    distance, scale = _distance_and_scale(norm, x)
    grad, dims = grad.abs(), _dims(norm)
    leading = tuple(range(x.dim() - len(dims)))
    weighted = grad * _weight(norm)
    along = (weighted * distance).mean(dims, keepdim=True)
    of_x = weighted + distance * along
    if isinstance(norm, nn.LayerNorm):
        of_x = of_x + weighted.mean(dims, keepdim=True)
    found = [
        (x, of_x / scale),
        (norm.weight, (grad * distance).sum(leading) if leading else grad * distance),
        (getattr(norm, "bias", None), grad.sum(leading) if leading else grad),
    ]
    return [terms for of, terms in found if isinstance(of, Tensor) and of.requires_grad]


def _distance_and_scale(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """(|x| + |mean|) / s, and s."""
    x, dims = x.detach(), _dims(norm)
    centre = x.mean(dims, keepdim=True) if isinstance(norm, nn.LayerNorm) else x.new_zeros(())
    eps = norm.eps if isinstance(norm.eps, float) else torch.finfo(x.dtype).eps
    scale = ((x - centre).square().mean(dims, keepdim=True) + eps).sqrt()
    return (x.abs() + centre.abs()) / scale, scale


def _dims(norm: nn.Module) -> tuple[int, ...]:
    shape = norm.normalized_shape
    assert isinstance(shape, tuple)
    return tuple(range(-len(shape), 0))


def _weight(norm: nn.Module) -> Tensor | float:
    weight = norm.weight
    return weight.detach().abs() if isinstance(weight, Tensor) else 1.0
