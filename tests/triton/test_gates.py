"""Gated units, rotary embeddings and linear_cross_entropy in Triton, over several blocks and at the ends."""

import pytest
import torch
import torch.nn.functional as F
from support import op_checks
from support.op_checks import OpUnderTest

import fastmodel as fm
from fastmodel.ops import triton_rotary
from fastmodel.ops.linear_cross_entropy import library, triton_kernel

ENDS = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 200.0, -200.0, 1e38, -1e38])
UNITS = {
    "geglu": F.gelu,
    "geglu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "swiglu": F.silu,
}


@pytest.mark.parametrize("name", UNITS)
def test_the_ends_of_the_range(name):
    """NaN and infinity where PyTorch's float64 functions have them."""
    face = getattr(fm.functional, name)
    op = OpUnderTest(name, face, lambda gate, up: UNITS[name](gate) * up, ())
    with fm.use_backend("triton"):
        found = op_checks._with_ones(face, op.leaves((ENDS, torch.ones(9))))
    expected = op_checks._with_ones(op.plain, op.leaves((ENDS, torch.ones(9)), torch.float64))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.float(), equal_nan=True)


@pytest.mark.parametrize("name", ["rope", "rope_interleaved"])
@pytest.mark.parametrize("tables", [0, 2])
def test_more_heads_than_a_tile_has(name, tables, monkeypatch):
    monkeypatch.setattr(triton_rotary, "TILE", 64)
    function = getattr(fm.functional, name)
    q, k = torch.randn(2, 5, 3, 6), torch.randn(2, 3, 3, 6)
    table = (tables, 3, 6) if tables else (3, 6)
    op = OpUnderTest(
        name, lambda *args: torch.cat([x.flatten() for x in function(*args)]), None, (), (2, 3)
    )
    args = (q, k, torch.randn(table), torch.randn(table))
    with fm.use_backend("triton"):
        found = op_checks.run_with_gradients(op.face, op.leaves(args), name)
    with fm.use_backend("reference"):
        expected = op_checks.run_with_gradients(op.face, op.leaves(args, torch.float64), name)
    for a, b in zip(found, expected, strict=True):
        op_checks.assert_close(a, b, torch.float32, 2, name)


def loss_of(x, weight, target, reduction, smoothing, class_weight=None):
    return fm.functional.linear_cross_entropy(
        x, weight, target, weight=class_weight, reduction=reduction, label_smoothing=smoothing
    )


def plain_loss(x, weight, target, reduction, smoothing, class_weight=None):
    logits = F.linear(x, weight)
    return F.cross_entropy(
        logits, target, class_weight, reduction=reduction, label_smoothing=smoothing
    )


LOSS = OpUnderTest("linear_cross_entropy", loss_of, plain_loss, (), (5,))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 classes, chunks of three rows of 33."""
    monkeypatch.setattr(triton_kernel, "MOST_CLASSES", 16)
    monkeypatch.setattr(library, "CHUNK_BYTES", 400)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("has_weight", [False, True])
@pytest.mark.parametrize("classes", [15, 17, 33])
def test_more_classes_than_a_block_has(classes, has_weight, smoothing, reduction):
    x, weight = torch.randn(8, 5), torch.randn(classes, 5)
    target = torch.tensor([0, classes - 1, 3, -100, 14, 13, 2, 1])
    class_weight = torch.rand(classes) + 0.5 if has_weight else None
    args = (x, weight, target, reduction, smoothing, class_weight)
    with fm.use_backend("triton"):
        found = op_checks.run_with_gradients(LOSS.face, LOSS.leaves(args), "blocks")
    wide = LOSS.leaves(args, torch.float64)
    for a, b in zip(found, op_checks.run_with_gradients(LOSS.plain, wide, "blocks"), strict=True):
        op_checks.assert_close(a, b, torch.float32, classes, "blocks")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("position", [0, 16, 32])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e4])
def test_special_values_in_any_block(value, position):
    weight = torch.zeros(33, 1)
    weight[position], weight[20] = value, 1.0
    for base in (1.0, -1.0):
        args = (torch.full((2, 1), base), weight, torch.tensor([20, 20]), "none", 0.0, None)
        op_checks.check_special_values(LOSS, args, "triton")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("wrong", [33, -1, 2**40])
def test_a_class_index_out_of_range_makes_nan_of_its_row(wrong):
    x, weight = torch.randn(5, 2, requires_grad=True), torch.randn(33, 2)
    with fm.use_backend("triton"):
        loss = loss_of(x, weight, torch.tensor([0, 4, wrong, 8, 9]), "none", 0.0)
        loss.backward(torch.ones(5))
    assert loss.isnan().tolist() == [False, False, True, False, False]
    assert x.grad.isnan().all(1).tolist() == [False, False, True, False, False]


@pytest.mark.usefixtures("small_blocks")
def test_a_first_block_of_minus_infinity():
    weight = torch.zeros(33, 1)
    weight[:16] = -torch.inf
    args = (torch.ones(2, 1), weight, torch.tensor([20, 32]), "none", 0.0, None)
    op_checks.check_special_values(LOSS, args, "triton")
