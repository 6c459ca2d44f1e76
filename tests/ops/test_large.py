"""Tensors of more than 2^31 elements: indices are 64 bits wide. bfloat16, checked where the end of memory is.

Adam's four such tensors would take 17 GB; it walks its tensors with the code that SGD does.
"""

import psutil
import pytest
import torch
import torch.nn.functional as F

import fastmodel as fm
from fastmodel import env

ROOM_BYTES = 16 * 2**30

pytestmark = [
    pytest.mark.skipif(
        env.native_missing() is not None, reason="the native extension is not built"
    ),
    pytest.mark.skipif(
        psutil.virtual_memory().available < ROOM_BYTES, reason="needs 16 GiB of free memory"
    ),
]


@pytest.fixture(autouse=True)
def unpoisoned(poisoned_outputs):
    """Filling gigabytes with NaN would take longer than the kernels."""
    torch.utils.deterministic.fill_uninitialized_memory = False


def repeated(rows: int, shape: tuple[int, ...]) -> torch.Tensor:
    """(rows, *shape) that repeats a few random rows; the last row is a multiple of none of them."""
    some = torch.randn(97, *shape).bfloat16()
    return some[torch.arange(rows) % 97]


def test_linear_relu():
    x, weight = repeated(2**16 + 1, (1,)), torch.randn(2**15, 1).bfloat16()
    with fm.use_backend("cpu"):
        out = fm.functional.linear_relu(x, weight)
    assert out.numel() > 2**31
    for row in (0, 40_000, 2**16):
        assert torch.equal(out[row], F.relu(F.linear(x[row], weight)))


def test_conv_relu():
    x, weight = repeated(2**21 + 1, (1, 32, 32)), torch.randn(1, 1, 1, 1).bfloat16()
    with fm.use_backend("cpu"):
        out = fm.functional.conv_relu(x, weight)
    assert out.numel() > 2**31
    for image in (0, 1_500_000, 2**21):
        torch.testing.assert_close(out[image], F.relu(F.conv2d(x[image], weight)))


def test_conv_relu_maxpool_forward_and_backward():
    x = repeated(2**21 + 1, (1, 32, 32)).requires_grad_()
    weight = torch.randn(1, 1, 1, 1).bfloat16()
    with fm.use_backend("cpu"):
        out = fm.functional.conv_relu_maxpool(x, weight)
        (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert grad.numel() > 2**31
    for image in (0, 1_500_000, 2**21):
        one = x.detach()[image].float().requires_grad_()
        expected = F.max_pool2d(F.relu(F.conv2d(one, weight.float())), 2)
        torch.testing.assert_close(out[image].float(), expected, rtol=2**-7, atol=0)
        (expected_grad,) = torch.autograd.grad(expected.sum(), one)
        torch.testing.assert_close(grad[image].float(), expected_grad)


def test_cross_entropy():
    x = repeated(2**16 + 1, (2**15,)).requires_grad_()
    target = torch.arange(2**16 + 1) % 2**15
    with fm.use_backend("cpu"):
        loss = fm.functional.cross_entropy(x, target, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x)
    assert grad.numel() > 2**31
    for row in (0, 40_000, 2**16):
        one = x.detach()[row].float().requires_grad_()
        (expected,) = torch.autograd.grad(F.cross_entropy(one, target[row]), one)
        torch.testing.assert_close(grad[row].float(), expected, rtol=2**-7, atol=1e-6)


def test_sgd():
    parameter = torch.nn.Parameter(torch.ones(2**31 + 17, dtype=torch.bfloat16))
    parameter.grad = torch.full_like(parameter, 0.5)
    with fm.use_backend("cpu"):
        fm.optim.SGD([parameter], lr=0.5).step()
    assert parameter.min() == parameter.max() == 0.75
