"""What ops/triton_interpreter.py puts right: bfloat16 in Triton's interpreter."""

import math

import pytest
import torch
import triton
import triton.language as tl

from fastmodel.ops import triton_math
from fastmodel.ops.triton_host import precision

F32_BITS = torch.tensor(
    # Ties to even, down and up; one below and above a tie; a carry into the exponent; largest finite values,
    # of which the second rounds to infinity; subnormals.
    [
        0x3F808000,
        0x3F818000,
        0x3F807FFF,
        0x3F808001,
        0x3FFF8000,
        0x7F7F7FFF,
        0x7F7FFFFF,
        0x00018000,
        0x00000001,
    ],
)


@triton.jit
def copy_kernel(source, to, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(to + at, tl.load(source + at).to(to.dtype.element_ty))


def copied(source: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    to = torch.full(source.shape, 7.0, dtype=dtype)
    copy_kernel[(1,)](source, to, BLOCK=source.numel())
    return to


def test_float32_is_rounded_to_nearest_even():
    finite = F32_BITS.to(torch.int32).view(torch.float32)
    values = torch.cat([finite, -finite[:6], torch.tensor([math.inf])])
    assert values.numel() == 16
    found = copied(values, torch.bfloat16)
    assert torch.equal(found.view(torch.int16), values.to(torch.bfloat16).view(torch.int16))
    special = torch.tensor([math.nan, -math.nan, -math.inf, 0.0])
    assert torch.equal(copied(special, torch.bfloat16).isnan(), special.isnan())


def test_bfloat16_widens_exactly():
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    found, expected = copied(values, torch.float32), values.float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@triton.jit
def product_kernel(a, b, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    acc = tl.zeros([SIZE, SIZE], tl.float32)
    tl.store(out + at, triton_math.dot(tl.load(a + at), tl.load(b + at), acc, "ieee"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_products(dtype):
    a, b, out = torch.randn(16, 16).to(dtype), torch.randn(16, 16).to(dtype), torch.empty(16, 16)
    product_kernel[(1,)](a, b, out, SIZE=16)
    torch.testing.assert_close(out, a.float() @ b.float())


@triton.jit
def activation_kernel(z, out, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, FUNCTION(tl.load(z + at)))


@pytest.mark.parametrize("name", ["relu", "sigmoid", "silu", "tanh", "gelu"])
def test_activations(name):
    """Against float64, over the range and where the formula of tanh changes; NaN and infinities too."""
    z = torch.cat([torch.linspace(-20, 20, 4000), torch.linspace(-0.26, 0.26, 84)])
    z = torch.cat(
        [
            z,
            torch.tensor(
                [math.nan, math.inf, 0.0, 1e-30, 1e30, -1e30, 88.0, -88.0, -0.0, 3.0, 1e-4, -1.0]
            ),
        ]
    )
    assert z.numel() == 4096
    plain = {"gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}.get(
        name
    ) or getattr(torch, name)
    out = torch.empty_like(z)
    activation_kernel[(1,)](z, out, FUNCTION=getattr(triton_math, name), BLOCK=4096)
    torch.testing.assert_close(
        out.double(), plain(z.double()), rtol=1e-6, atol=2e-7, equal_nan=True
    )


def test_tf32_where_pytorch_may_take_it():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert precision(torch.float32) == precision(torch.bfloat16) == "ieee"
        torch.set_float32_matmul_precision("high")
        assert precision(torch.float32) == "tf32" and precision(torch.bfloat16) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)
