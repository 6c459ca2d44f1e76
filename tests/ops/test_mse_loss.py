"""mse_loss against torch.nn.functional.mse_loss."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from support import op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel.ops.mse_loss.cases import CASES

OP = OpUnderTest("mse_loss", fm.functional.mse_loss, F.mse_loss, CASES)
BACKENDS = [*op_checks.backends(OP.name), None]
BY_NAME = {case.name: case for case in CASES}
REDUCTIONS = ("none", "mean", "sum")
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@everywhere
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    op_checks.check_against_float64(OP, case, backend, dtype)


@everywhere
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(6, 7), (2, 3, 4, 5), (1, 5)], ids=str)
def test_any_strides(shape, reduction, backend):
    x, target = torch.randn(shape), torch.randn(shape)
    depth = math.prod(shape)
    op_checks.check_any_strides(OP, (x, target, None, None, reduction), backend, depth)
    strided = op_checks.strided(target)
    op_checks.check_any_strides(OP, (x, strided, None, None, reduction), backend, depth)
    expanded = x[:1].expand(shape)
    op_checks.check_any_strides(OP, (expanded, target, None, None, reduction), backend, depth)


@everywhere
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_channels_last_keeps_its_layout(reduction, backend):
    x, target = (torch.randn(2, 3, 5, 4).to(memory_format=torch.channels_last) for _ in range(2))
    op_checks.check_any_strides(OP, (x, target, None, None, reduction), backend, depth=120)
    x.requires_grad_()
    with fm.use_backend(backend):
        loss = OP.face(x, target, reduction=reduction)
        loss.sum().backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
    assert reduction != "none" or loss.is_contiguous(memory_format=torch.channels_last)


@everywhere
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("position", [0, 63, 4095, 4099])
def test_special_values(position, value, reduction, backend):
    x, target = torch.randn(4100), torch.randn(4100)
    x[position] = value
    op_checks.check_special_values(OP, (x, target, None, None, reduction), backend)
    op_checks.check_special_values(OP, (target, x, None, None, reduction), backend)
    op_checks.check_special_values(OP, (x, x.clone(), None, None, reduction), backend)


@pytest.mark.parametrize("name", ["tiny", "15-none", "17-sum"])
def test_only_the_gradients_wanted(name):
    op_checks.check_only_the_gradients_wanted(OP, BY_NAME[name].make(torch.float32))


@pytest.mark.parametrize("name", ["tiny", "15-none", "17-sum"])
def test_derivatives(name):
    op_checks.check_derivatives(OP, BY_NAME[name].make(torch.float64))


@everywhere
@pytest.mark.parametrize("name", ["tiny", "15-none", "17-sum"])
def test_second_derivative_of_float32(name, backend):
    op_checks.check_mixed_second_derivative(OP, BY_NAME[name].make(torch.float32), backend)


@pytest.mark.parametrize(("name", "code"), [("tiny", 1), ("15-none", 0), ("17-sum", 2)])
def test_registration(name, code):
    def backward_args(args, outs):
        return torch.randn_like(outs[0]), *args, [True, True]

    x, target, *_ = BY_NAME[name].make(torch.float32)
    op_checks.check_registration(OP, (x, target, code), backward_args)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_compiles_as_one_graph(reduction):
    module = fm.nn.MSELoss(reduction=reduction)
    op_checks.check_compiles(module, torch.randn(3, 5), torch.randn(3, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["tiny", "15-none"])
def test_autocast(name, dtype):
    op_checks.check_autocast(OP, BY_NAME[name].make(torch.float32), dtype, 15)


@everywhere
def test_the_sum_is_the_same_for_every_thread_count(backend):
    case = BY_NAME["two-threads"]
    for threads in (1, 2, 3):
        op_checks.check_thread_counts(OP, case, backend, threads)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native extension is not built")
def test_threads_do_not_change_a_bit():
    args = BY_NAME["two-threads"].make(torch.float32)
    before, losses = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with fm.use_backend("cpu"):
                losses.append(OP.face(*args))
    finally:
        torch.set_num_threads(before)
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native extension is not built")
def test_a_long_sum_loses_nothing():
    """16.8 million equal terms: a float32 running sum of ones would stop at 2^24, 16777216."""
    with fm.use_backend("cpu"):
        loss = OP.face(torch.ones(2**24 + 4096), torch.zeros(2**24 + 4096), reduction="sum")
    assert loss.item() == 2**24 + 4096


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("bfloat16", "float32")], ids=str)
def test_dtypes_promote(dtypes):
    x, target = (torch.randn(4, 5).to(getattr(torch, dtype)).requires_grad_() for dtype in dtypes)
    ours, theirs = OP.face(x, target), OP.plain(x, target)
    torch.testing.assert_close(ours, theirs)
    grads = torch.autograd.grad(ours, (x, target))
    for a, b in zip(grads, torch.autograd.grad(theirs, (x, target)), strict=True):
        torch.testing.assert_close(a, b)
    assert OP.face(x, torch.arange(5).repeat(4, 1)).dtype == x.dtype


@everywhere
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_another_shape_is_broadcast_with_pytorchs_warning(reduction, backend):
    args = (torch.randn(4, 1), torch.randn(5), None, None, reduction)

    def run(call):
        x, target = leaves = op_checks.tensors(op_checks.leaves(args))
        with pytest.warns(UserWarning, match="Using a target size") as warned:
            out = call(x, target, reduction=reduction)
        assert warned[0].filename == __file__ or call is OP.plain
        return str(warned[0].message), [out, *torch.autograd.grad(out.sum(), leaves)]

    with fm.use_backend(backend):
        (ours, found), (theirs, expected) = run(OP.face), run(OP.plain)
    assert ours == theirs
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights(reduction):
    x, target, weight = torch.randn(4, 5), torch.randn(4, 5), torch.rand(4, 5)
    ours = OP.face(x, target, reduction=reduction, weight=weight)
    theirs = OP.plain(x, target, reduction=reduction, weight=weight)
    assert torch.equal(ours, theirs)


def test_deprecated_arguments():
    x, target = torch.randn(3, 5), torch.randn(3, 5)
    for size_average, reduce in ((False, None), (True, None), (None, False), (None, True)):
        with pytest.warns(UserWarning, match="deprecated"):
            ours = OP.face(x, target, size_average=size_average, reduce=reduce)
        with pytest.warns(UserWarning, match="deprecated"):
            theirs = OP.plain(x, target, size_average=size_average, reduce=reduce)
        torch.testing.assert_close(ours, theirs)


def test_no_flops_are_counted_as_pytorch_counts_none():
    x = torch.randn(3, 5, requires_grad=True)
    for call in (OP.face, OP.plain):
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            call(x, torch.randn(3, 5)).backward()
        assert counter.get_total_flops() == 0


def test_module_is_an_mse_loss():
    plain = nn.MSELoss(reduction="sum").eval()
    fused = fm.nn.MSELoss.from_torch(plain)
    assert isinstance(fused, nn.MSELoss) and not fused.training and fused.reduction == "sum"
    x, target = torch.randn(4, 5), torch.randn(4, 5)
    torch.testing.assert_close(fused(x, target), plain(x, target))
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert twin(x, target) == fused(x, target)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((torch.ones(3), torch.ones(3), None, None, "median"), "choose none, mean or sum"),
        ((torch.ones(3).long(), torch.ones(3).long()), "must be floating point"),
        ((torch.ones(3), torch.ones(3, device="meta")), "target on meta"),
    ],
)
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)


def test_shapes_that_cannot_be_broadcast():
    with pytest.warns(UserWarning, match="Using a target size"):
        op_checks.check_bad_input(OP, (torch.ones(3), torch.ones(2)), "of input's shape")
