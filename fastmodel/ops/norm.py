"""What layer_norm, rms_norm and their residual twins share: formulas in plain PyTorch, checks and wrappers.

A row is what is normalised at once: the last `dims` dimensions of x, of n values. In it

    layer norm   hat = (x - mean) * rstd    rstd = 1 / sqrt(mean of (x - mean)^2 + eps)
    rms norm     hat = x * rstd             rstd = 1 / sqrt(mean of x^2 + eps)
    out = hat * weight + bias

and backward, with g = grad * weight and `of` the mean over the row:

    layer norm   grad_x = rstd * (g - of(g) - hat * of(g * hat))
    rms norm     grad_x = rstd * (g - hat * of(g * hat))
    grad_weight = sum over rows of grad * hat, grad_bias = sum over rows of grad

`stats` is what forward leaves for backward: (2, rows), mean and rstd of each row, or (1, rows), rstd alone.
All arithmetic and stats are float32, float64 for float64. weight and bias may be of another dtype than x
(mixed precision keeps them in float32); each gradient has the dtype of what it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops import checks


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of stats and of all arithmetic for an x of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_count(x: Tensor, dims: int) -> int:
    """How many rows x has."""
    return math.prod(x.shape[: x.dim() - dims])


def row_size(x: Tensor, dims: int) -> int:
    """How many values a row has."""
    return math.prod(x.shape[x.dim() - dims :])


def affine(hat: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """hat * weight + bias, in the dtype of hat."""
    if weight is not None:
        hat = hat * weight.to(hat.dtype)
    return hat if bias is None else hat + bias.to(hat.dtype)


def layer_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, eps: float
) -> tuple[Tensor, Tensor]:
    """out and stats of layer norm."""
    hat, mean, rstd = _layer_hat(x, dims, eps)
    out = affine(hat, weight, bias).to(x.dtype)
    return out.contiguous(), torch.stack([mean.flatten(), rstd.flatten()])


def rms_forward(x: Tensor, weight: Tensor | None, dims: int, eps: float) -> tuple[Tensor, Tensor]:
    """out and stats of rms norm."""
    hat, rstd = _rms_hat(x, dims, eps)
    return affine(hat, weight, None).to(x.dtype).contiguous(), rstd.reshape(1, -1)


def layer_backward(
    grad: Tensor,
    grad_sum: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, empty for each that is not wanted; x's has grad_sum added.

    Differentiable: the statistics are found again from x.
    """
    hat, _, rstd = _layer_hat(x, dims, eps)
    wide = grad.to(hat.dtype)
    grad_x = None
    if wanted[0]:
        g = affine(wide, weight, None)
        grad_x = rstd * (g - _row_mean(g, dims) - hat * _row_mean(g * hat, dims))
    return (
        _stored(grad_x, grad_sum, x),
        _sum_of_rows(wide * hat, weight) if wanted[1] else x.new_empty(0),
        _sum_of_rows(wide, bias) if wanted[2] else x.new_empty(0),
    )


def rms_backward(
    grad: Tensor,
    grad_sum: Tensor | None,
    x: Tensor,
    weight: Tensor | None,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight, as layer_backward."""
    hat, rstd = _rms_hat(x, dims, eps)
    wide = grad.to(hat.dtype)
    grad_x = None
    if wanted[0]:
        g = affine(wide, weight, None)
        grad_x = rstd * (g - hat * _row_mean(g * hat, dims))
    return (
        _stored(grad_x, grad_sum, x),
        _sum_of_rows(wide * hat, weight) if wanted[1] else x.new_empty(0),
    )


def _row_mean(x: Tensor, dims: int) -> Tensor:
    return x.mean(tuple(range(-dims, 0)), keepdim=True)


def _layer_hat(x: Tensor, dims: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """hat, mean and rstd."""
    wide = x.to(stats_dtype(x.dtype))
    mean = _row_mean(wide, dims)
    distance = wide - mean
    # What rounding left out of the mean: far from 0 it is much beside the deviation.
    rest = _row_mean(distance, dims)
    mean, distance = mean + rest, distance - rest
    rstd = (_row_mean(distance.square(), dims) + eps).rsqrt()
    return distance * rstd, mean, rstd


def _rms_hat(x: Tensor, dims: int, eps: float) -> tuple[Tensor, Tensor]:
    """hat and rstd."""
    wide = x.to(stats_dtype(x.dtype))
    rstd = (_row_mean(wide.square(), dims) + eps).rsqrt()
    return wide * rstd, rstd


def _stored(grad_x: Tensor | None, grad_sum: Tensor | None, x: Tensor) -> Tensor:
    if grad_x is None:
        return x.new_empty(0)
    if grad_sum is not None:
        grad_x = grad_x + grad_sum.to(grad_x.dtype)
    return grad_x.to(x.dtype).contiguous()


def _sum_of_rows(terms: Tensor, parameter: Tensor | None) -> Tensor:
    assert parameter is not None  # its gradient is wanted
    return terms.sum_to_size(parameter.shape).to(parameter.dtype)


def checked_dims(
    op: str,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None = None,
) -> int:
    """How many of x's dimensions make a row, after the checks that all the norms make.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
    """
    if isinstance(normalized_shape, int):
        raise InputError(
            f"{op}: normalized_shape is the number {normalized_shape}; pass a tuple, the sizes of input's "
            "last dimensions"
        )
    shape = tuple(normalized_shape)
    dims = len(shape)
    if dims == 0 or x.shape[-dims:] != shape:
        raise InputError(
            f"{op}: normalized_shape is {shape}, input has shape {tuple(x.shape)}; pass the sizes of "
            "input's last dimensions, at least one"
        )
    checks.floating(op, "input", x)
    if weight is not None:
        _check_parameter(op, x, shape, "weight", weight)
    if bias is not None:
        _check_parameter(op, x, shape, "bias", bias)
    return dims


def _check_parameter(
    op: str, x: Tensor, shape: tuple[int, ...], name: str, parameter: Tensor
) -> None:
    if parameter.shape != shape:
        raise InputError(
            f"{op}: {name} has shape {tuple(parameter.shape)}; normalized_shape asks for {shape} or None"
        )
    checks.floating(op, name, parameter)
    if parameter.device != x.device:
        checks.same_device(op, "input", x, **{name: parameter})


def check_residual(op: str, x: Tensor, residual: Tensor) -> None:
    """x and its residual fit.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
    """
    if residual.shape != x.shape:
        raise InputError(
            f"{op}: input has shape {tuple(x.shape)}, residual {tuple(residual.shape)}; "
            "pass a residual of input's shape"
        )
    checks.floating(op, "residual", residual)
    if residual.device != x.device:
        checks.same_device(op, "input", x, residual=residual)


def rms_eps(eps: float | None, dtype: torch.dtype) -> float:
    """eps as PyTorch has it where none is given: the distance from 1 to the next value."""
    return torch.finfo(stats_dtype(dtype)).eps if eps is None else eps
