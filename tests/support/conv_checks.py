"""What both convolution ops are held to beyond the checks of every op."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastmodel as fm
from fastmodel.ops import dispatch
from fastmodel.ops.case import Case
from support import op_checks
from support.op_checks import OpUnderTest

SMALL = (torch.float16, torch.bfloat16)


def check_case(op: OpUnderTest, case: Case, backend: str | None, dtype: torch.dtype) -> None:
    """Forward and gradients of one case.

    Fused kernels compare unrounded float32 sums, so they agree with float64 about masks and maxima. A row
    that rounds the convolution to 16 bits first cannot: equal maxima after rounding are common. It is held to
    the plain composition in the same dtype, which is its definition.
    """
    args = case.make(dtype)
    if backend is not None and not op_checks.serves(op.name, backend, dtype):
        pytest.skip(f"{backend} has no {dtype} kernel of {op.name}")
    is_depthwise = args[6] == args[0].shape[1] == args[1].shape[0]
    if backend == "cpu" and args[6] != 1 and not (op.name == "conv_relu" and is_depthwise):
        with fm.use_backend(backend), pytest.raises(fm.errors.BackendError, match="groups"):
            op.face(*args)
        return
    if dtype not in SMALL or _is_fused(op, args, backend):
        op_checks.check_against_float64(op, case, backend, dtype)
        return
    with fm.use_backend(backend):
        found = op_checks.run_with_gradients(op.face, op_checks.leaves(args), case.name)
    expected = op_checks.run_with_gradients(op.plain, op_checks.leaves(args), case.name)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        op_checks.assert_close(a, b, dtype, case.depth, str(case))


def _is_fused(op: OpUnderTest, args: tuple, backend: str | None) -> bool:
    """Is the forward pass served by a fused kernel?"""
    if len(args) > 7:
        args = (*args[:8], args[8] or args[7], args[9])
    with fm.use_backend(backend):
        return dispatch.choose(op.name, "forward", *args).__name__ == "forward_cpu"


def check_layouts(op: OpUnderTest, backend: str | None, extra: tuple, device: str = "cpu") -> None:
    """x, weight and the incoming gradient contiguous or channels_last, in every combination.

    The values are eighths, so that sums are exact in float32: equal maxima are equal in float64 too.
    """
    formats = (torch.contiguous_format, torch.channels_last)
    for x_format, weight_format, grad_format in itertools.product(formats, repeat=3):
        x = _eighths(2, 5, 9, 8).to(device).contiguous(memory_format=x_format)
        weight = _eighths(18, 5, 3, 3).to(device).contiguous(memory_format=weight_format)
        bias = _eighths(18).to(device)
        args = (x, weight, bias, (1, 1), (1, 1), (1, 1), 1, *extra)

        with fm.use_backend(backend):
            found = _with_gradient_in(grad_format, op.face, op_checks.leaves(args))
        wide = op_checks.leaves(args, torch.float64)
        expected = _with_gradient_in(grad_format, op.plain, wide)
        for a, b in zip(found, expected, strict=True):
            op_checks.assert_close(a, b, torch.float32, 162, "layouts")


def check_bfloat16_rounding(op: OpUnderTest, backend: str | None, extra: tuple) -> None:
    """One input channel makes every output one product; one pixel and one filter every gradient."""
    geometry = (None, (1, 1), (0, 0), (1, 1), 1, *extra)
    outer = (torch.rand(2, 1, 6, 6), torch.rand(33, 1, 1, 1), *geometry)
    inner = (torch.rand(1, 150, 1, 1), torch.rand(1, 150, 1, 1), *geometry)
    op_checks.check_bfloat16_rounding(op, outer, inner, backend)


def _eighths(*shape: int) -> torch.Tensor:
    return torch.randint(-8, 9, shape) / 8


def _with_gradient_in(grad_format, call, args) -> list[torch.Tensor]:
    out = call(*args)
    grad = op_checks.gradient_like(out, "layouts").contiguous(memory_format=grad_format)
    return [out, *torch.autograd.grad(out, op_checks.tensors(args), grad)]


PADDINGS = [
    {"padding": "same", "kernel_size": 3},
    {"padding": "same", "kernel_size": 4, "dilation": 3},
    {"padding": "same", "kernel_size": (2, 3)},
    {"padding": "valid", "kernel_size": 3},
    {"padding": (2, 1), "kernel_size": 3, "padding_mode": "reflect"},
    {"padding": 1, "kernel_size": 3, "padding_mode": "replicate"},
    {"padding": "same", "kernel_size": 3, "padding_mode": "circular"},
    {"padding": 1, "kernel_size": 3, "stride": (2, 1), "groups": 2, "bias": False},
]


def check_module(fused: nn.Conv2d, convolution: nn.Conv2d, behind, tmp_path) -> None:
    """The fused module over a convolution's Parameters computes what the sequence does, also unbatched."""
    assert isinstance(fused, nn.Conv2d)
    assert fused.weight is convolution.weight and fused.bias is convolution.bias
    assert fused.training == convolution.training
    assert repr(convolution)[len("Conv2d(") : -1] in repr(fused)
    x = torch.randn(2, 4, 11, 12)

    def plain(x):
        return behind(F.relu(convolution(x)))

    torch.testing.assert_close(fused(x), plain(x))
    torch.testing.assert_close(fused(x[0]), plain(x[0]))
    op_checks.check_module_twins(fused, plain, x, tmp_path)
    fused.load_state_dict(convolution.state_dict())
    convolution.load_state_dict(fused.state_dict())


def bad_inputs(ones=torch.ones) -> list[tuple[tuple, str]]:
    """Arguments and the words that the error must hold."""
    x, weight = ones(1, 3, 8, 8), ones(4, 3, 3, 3)
    plain = (1, 0, 1, 1)
    return [
        ((ones(1, 4, 8, 8), weight, None, *plain), "weight expects 3 input channels, x has 4"),
        ((ones(8, 8), weight, None, *plain), "x has shape (8, 8)"),
        ((x, ones(4, 3), None, *plain), "weight must have shape (K, C / groups, R, S)"),
        ((x, weight, ones(3), *plain), "asks for shape (4,) or None"),
        ((x, weight, None, 0, 0, 1, 1), "stride must be one or two integers >= 1"),
        ((x, weight, None, 1, -1, 1, 1), "padding must be one or two integers >= 0"),
        ((x, weight, None, 1, "some", 1, 1), "'same' or 'valid', it is 'some'"),
        ((x, weight, None, 2, "same", 1, 1), "padding='same' needs stride 1"),
        ((x, weight, None, 1, 0, (1, 2, 3), 1), "dilation must be one or two integers"),
        ((x, weight, None, 1, 0, 1, 3), "groups must divide"),
        ((ones(1, 3, 2, 2), weight, None, *plain), "pass larger images"),
        ((x, weight.double(), None, *plain), "x is float32, weight is float64"),
        ((x.long(), weight.long(), None, *plain), "must be floating point"),
        ((x, weight.to("meta"), None, *plain), "weight on meta"),
    ]
