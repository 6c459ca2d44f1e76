"""linear_cross_entropy against F.cross_entropy(F.linear(...)), and against float64."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from support import op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel.ops.case import Case, randn
from fastmodel.ops.class_loss import REDUCTIONS
from fastmodel.ops.linear_cross_entropy import library
from fastmodel.ops.linear_cross_entropy.cases import CASES
from fastmodel.ops.linear_cross_entropy.reference import row_scales


def face(x, weight, target, bias, class_weight, reduction, smoothing, ignore_index=None):
    return fm.functional.linear_cross_entropy(
        x,
        weight,
        target,
        linear_bias=bias,
        weight=class_weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=smoothing,
    )


def plain(x, weight, target, bias, class_weight, reduction, smoothing, ignore_index=-100):
    loss = F.cross_entropy(
        F.linear(x.reshape(target.numel(), x.shape[-1]), weight, bias),
        target.flatten(),
        class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    return loss.reshape(target.shape) if reduction == "none" else loss


OP = OpUnderTest("linear_cross_entropy", face, plain, CASES, constants=(4,))
BACKENDS = [*op_checks.backends(OP.name), None]
BY_NAME = {case.name: case for case in CASES}
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)


def arguments(x, weight, target, reduction="mean", smoothing=0.0, bias=None, class_weight=None):
    return x, weight, target, bias, class_weight, reduction, smoothing


@pytest.fixture(params=["whole", "chunks"])
def chunks(request, monkeypatch):
    """Rows in one chunk, and a few at a time (of 33 classes in float32: three)."""
    if request.param == "chunks":
        monkeypatch.setattr(library, "CHUNK_BYTES", 400)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@everywhere
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    op_checks.check_against_float64(OP, case, backend, dtype)


LOW = (torch.bfloat16, torch.float16)


def check_in_low_precision(found, args, grad) -> None:
    """[loss, gradient of x, weight and bias] against float64, where logits and their gradient d are rounded.

    With u half an eps: a logit is off by 2 u of itself (product and bias), so by `shift` = 2 u max |logit|
    at most; a row's loss by twice that times the sum Q of its q; the softmax p by its 2 shift, to first
    order, and d by as much of Q p and by u of itself. A product passes the errors of d on by the other
    factor's size, and its chunks' sums may each be rounded by u. The result is rounded at the end.
    """
    dtype = args[0].dtype
    u = torch.finfo(dtype).eps / 2
    wide = OP.leaves(args, torch.float64)
    loss = OP.plain(*wide)
    expected = [loss, *torch.autograd.grad(loss, op_checks.tensors(wide), grad.double())]
    with torch.no_grad():
        x, weight, target, bias, class_weight, reduction, smoothing = wide
        x, target = x.reshape(target.numel(), x.shape[-1]), target.flatten()
        w = torch.ones(len(weight), dtype=torch.float64) if class_weight is None else class_weight
        scales = row_scales(
            grad.double().abs().flatten() if reduction == "none" else grad.double().abs(),
            target,
            w,
            -100,
            REDUCTIONS[reduction],
        )
        logits = F.linear(x, weight, bias)
        shift = 2 * u * logits.abs().amax(-1)
        index = target.clamp_min(0).unsqueeze(-1)
        share = torch.full_like(logits, smoothing / len(weight))
        q = w * share.scatter_add(-1, index, torch.full_like(share[:, :1], 1 - smoothing))
        total = q.sum(-1)
        row = 2 * shift * total
        if reduction == "none":
            off = [row.where(target >= 0, 0).reshape(loss.shape)]
        else:
            unit = torch.ones((), dtype=torch.float64)
            off = [(row_scales(unit, target, w, -100, REDUCTIONS[reduction]) * row).sum()]
        size = scales.unsqueeze(-1) * (torch.softmax(logits, -1) * total.unsqueeze(-1) + q)
        d = (2.2 * shift.unsqueeze(-1) + 2 * u) * size
        off.append((d @ weight.abs()).reshape(wide[0].shape))
        off.append(d.T @ x.abs() + 2 * u * size.T @ x.abs())
        off.append(d.sum(0) + 2 * u * size.sum(0))
    assert len(found) == len(expected)
    for a, b, allowed in zip(found, expected, off, strict=False):
        assert a.dtype == dtype and a.shape == b.shape
        error, bound = (a.double() - b).abs(), allowed + 4 * u * b.abs() + 1e-6
        assert ((error <= bound) | (a.isnan() & b.isnan())).all(), (error / bound).max()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", LOW, ids=str)
@everywhere
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients_in_low_precision(case, backend, dtype):
    if backend is not None and not op_checks.serves(OP.name, backend, dtype):
        pytest.skip(f"{backend} has no {dtype} kernel of {OP.name}")
    args = OP.leaves(case.make(dtype))
    with fm.use_backend(backend):
        found = op_checks.run_with_gradients(OP.face, args, case.name)
    check_in_low_precision(found, args, op_checks.gradient_like(found[0], case.name))


@pytest.mark.parametrize(
    ("rows", "features", "classes", "expected"),
    [
        *((0, 4, 5, 1), (1, 4, 5, 1), (10, 4, 5, 10), (10, 4, 33, 3), (9, 4, 33, 3), (8, 4, 33, 3)),
        # A row alone is more than the bytes; no classes; rows for the features, which come first.
        *((7, 3, 101, 1), (4, 0, 0, 4), (100, 30, 33, 10), (100, 29, 33, 9), (100, 9, 33, 3)),
    ],
)
def test_a_chunk_stays_within_its_bytes_but_for_the_features(
    rows, features, classes, expected, monkeypatch
):
    monkeypatch.setattr(library, "CHUNK_BYTES", 400)
    assert library.row_count(rows, features, classes, 4) == expected


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"], ids=str)
@pytest.mark.parametrize("wants", [False, True])
def test_all_logits_are_never_held(wants, backend, monkeypatch):
    monkeypatch.setattr(library, "CHUNK_BYTES", 400)
    chunks, sizes = library._chunks, []

    def watched(p):
        for logits, part in chunks(p):
            sizes.append(logits.shape)
            yield logits, part

    monkeypatch.setattr(library, "_chunks", watched)
    x, weight = torch.randn(10, 4, requires_grad=wants), torch.randn(33, 4)
    with fm.use_backend(backend):
        OP.face(*arguments(x, weight, torch.arange(10)))
    assert sizes == [(3, 33)] * 3 + [(1, 33)]


@pytest.mark.usefixtures("chunks")
@everywhere
@pytest.mark.parametrize("name", ["sequence", "weight", "smoothing-all", "none-all"])
def test_any_strides(name, backend):
    op_checks.check_any_strides(OP, BY_NAME[name].make(torch.float32), backend, BY_NAME[name].depth)


@pytest.mark.usefixtures("chunks")
@everywhere
@pytest.mark.parametrize("reduction", list(REDUCTIONS))
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignored", [False, True])
def test_special_values(ignored, smoothing, reduction, backend):
    """NaN and infinity as PyTorch has them in float32, in logits made of one feature."""
    x = torch.tensor([[1.0], [math.nan], [math.inf], [-math.inf], [1e20], [0.5]])
    weight = torch.tensor([[1.0], [-1.0], [0.5], [0.0], [2.0]])
    target = torch.tensor([0, 1, 4, 3, 4, 2])
    if ignored:
        target[1:5] = -100
    for rows in (slice(0, 6), slice(0, 1), slice(4, 6), slice(1, 2)):
        args = arguments(x[rows], weight, target[rows], reduction, smoothing)
        op_checks.check_special_values(OP, args, backend)


@pytest.mark.usefixtures("chunks")
@everywhere
@pytest.mark.parametrize("reduction", list(REDUCTIONS))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_rows_ignored(smoothing, reduction, backend):
    target = torch.full((6,), -100)
    args = arguments(torch.randn(6, 4), torch.randn(5, 4), target, reduction, smoothing)
    op_checks.check_special_values(OP, args, backend)


@pytest.mark.usefixtures("chunks")
@everywhere
@pytest.mark.parametrize("reduction", list(REDUCTIONS))
def test_class_weights_that_are_zero(reduction, backend):
    x, weight, target = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 2])
    for class_weight in (torch.tensor([0.0, 1.0, 0.0]), torch.zeros(3)):
        args = arguments(x, weight, target, reduction, class_weight=class_weight)
        op_checks.check_special_values(OP, args, backend)


@pytest.mark.parametrize("ignore_index", [-1, 2, 7])
def test_ignore_index_in_and_out_of_the_classes(ignore_index):
    target = torch.tensor([0, ignore_index, 1, ignore_index])
    args = (*arguments(torch.randn(4, 3), torch.randn(5, 3), target), ignore_index)
    op_checks.check_special_values(OP, args, None)


SCALARS = [case for case in OP.test_cases if case.make(torch.float32)[5] != "none"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@everywhere
@pytest.mark.parametrize("case", SCALARS, ids=str)
def test_every_backward_of_one_graph_is_right(case, backend, dtype):
    """The first takes what forward left behind, the others start again; none sees what became of another."""
    leaves = OP.leaves(case.make(dtype))
    wide = OP.leaves(leaves, torch.float64)
    grad = torch.tensor(-1.75)
    expected = torch.autograd.grad(OP.plain(*wide), op_checks.tensors(wide), grad.double())
    with fm.use_backend(backend):
        loss = OP.face(*leaves)
        for _ in range(3):
            found = torch.autograd.grad(
                loss, op_checks.tensors(leaves), grad.to(dtype), retain_graph=True
            )
            if dtype == torch.float32:
                for a, b in zip(found, expected, strict=True):
                    op_checks.assert_close(a, b, dtype, case.depth, str(case))
            else:
                check_in_low_precision([loss.detach(), *found], leaves, grad)
            for a in found:
                a.fill_(torch.nan)


def test_leaves_accumulate_losses():
    ours, theirs = (OP.leaves(BY_NAME["sequence"].make(torch.float32)) for _ in range(2))
    for call, args in ((OP.face, ours), (OP.plain, theirs)):
        for _ in range(2):
            call(*args).backward()
        (call(*args) + 2 * call(*args)).backward()
    for a, b in zip(op_checks.tensors(ours), op_checks.tensors(theirs), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_nothing_is_kept_without_a_gradient():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    args = arguments(x, weight, torch.tensor([0, 1, 4]))
    with torch.no_grad():
        assert OP.face(*args).grad_fn is None
    assert OP.face(x.detach(), *args[1:]).grad_fn is None


def test_a_batch_of_gradients():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    args = arguments(x, weight, torch.tensor([0, 1, 4]))
    grads = torch.tensor([1.0, -2.0, 0.5])
    found, expected = (
        torch.autograd.grad(call(*args), x, grads, is_grads_batched=True)[0]
        for call in (OP.face, OP.plain)
    )
    torch.testing.assert_close(found, expected)


def test_under_checkpointing():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    rest = (torch.tensor([0, 1, 4]), None, None, "mean", 0.0)
    loss = torch.utils.checkpoint.checkpoint(
        lambda x: OP.face(x * 2, weight, *rest), x, use_reentrant=False
    )
    found = torch.autograd.grad(loss, (x, weight))
    for a, b in zip(
        found, torch.autograd.grad(OP.plain(x * 2, weight, *rest), (x, weight)), strict=True
    ):
        torch.testing.assert_close(a, b)


@everywhere
@pytest.mark.parametrize("reduction", list(REDUCTIONS))
def test_deterministic_for_a_thread_count(reduction, backend):
    x, weight = randn(0, 200, 30, dtype=torch.float32), randn(1, 400, 30, dtype=torch.float32)
    args = arguments(x, weight / 5, 2 * torch.arange(200), reduction)
    case = Case("threads", lambda dtype: args, depth=400, flops=0, bytes_float32=0)
    for threads in (1, 2, 3):
        op_checks.check_thread_counts(OP, case, backend, threads)


DERIVED = ["sequence", "weight-sum-ignored", "smoothing-all", "none-all"]


@pytest.mark.parametrize("name", DERIVED)
def test_derivatives(name):
    x, weight, target, *rest = BY_NAME[name].make(torch.float64)
    op_checks.check_derivatives(OP, (x[:3], weight, target[:3], *rest))


@everywhere
@pytest.mark.parametrize("name", DERIVED)
def test_second_derivative_of_float32(name, backend):
    op_checks.check_mixed_second_derivative(OP, BY_NAME[name].make(torch.float32), backend)


@pytest.mark.parametrize("name", ["sequence", "none-all"])
def test_only_the_gradients_wanted(name):
    op_checks.check_only_the_gradients_wanted(OP, BY_NAME[name].make(torch.float32))


@pytest.mark.parametrize("wanted", [[True, True, True], [False, True, False], [False] * 3], ids=str)
@pytest.mark.parametrize("name", ["sequence", "ignored-none", "smoothing-all"])
def test_registration(name, wanted):
    x, weight, target, bias, class_weight, reduction, smoothing = BY_NAME[name].make(torch.float32)
    wanted = [*wanted[:2], wanted[2] and bias is not None]
    inputs = [x.flatten(0, -2), weight, bias]
    for value, want in zip(inputs, wanted, strict=True):
        if value is not None:
            value.requires_grad_(want)
    rest = (target.flatten(), class_weight, -100, REDUCTIONS[reduction], smoothing, wanted)
    torch.library.opcheck(torch.ops.fastmodel.linear_cross_entropy.default, (*inputs, *rest))
    loss = torch.ops.fastmodel.linear_cross_entropy(*inputs, *rest)[0]
    backward = torch.ops.fastmodel.linear_cross_entropy_backward.default
    torch.library.opcheck(backward, (torch.rand_like(loss), *inputs, *rest))


@pytest.mark.parametrize("name", ["sequence", "weight", "ignored-none"])
def test_compiles_as_one_graph(name):
    x, _, target, bias, class_weight, reduction, smoothing = BY_NAME[name].make(torch.float32)
    module = fm.nn.LinearCrossEntropyLoss(
        x.shape[-1],
        33,
        bias=bias is not None,
        weight=class_weight,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    op_checks.check_compiles(module, x, target)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", ["sequence", "smoothing-all"])
def test_autocast(name, dtype):
    """The loss is float32, as PyTorch's: within what the products' rounding does, see above."""
    args = BY_NAME[name].make(torch.float32)
    for lead in (torch.float32, dtype):
        mixed = OP.leaves((args[0].to(lead), *args[1:]))
        with torch.autocast("cpu", dtype=dtype):
            out, expected = OP.face(*mixed), OP.plain(*mixed)
        assert out.dtype == expected.dtype == torch.float32
        out.backward()
        for tensor in op_checks.tensors(mixed):
            assert tensor.grad.dtype == tensor.dtype
        rounded = [
            a if a is None or i in (2, 4) or not isinstance(a, torch.Tensor) else a.to(dtype)
            for i, a in enumerate(mixed)
        ]
        leaves = OP.leaves(tuple(rounded))
        found = [out, *[tensor.grad for tensor in op_checks.tensors(mixed)]]
        check_in_low_precision([a.detach().to(dtype) for a in found], leaves, torch.tensor(1.0))


def test_autocast_hands_over_what_forward_left():
    """Backward makes no logits again: it counts no products."""
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = OP.face(*arguments(x, weight, torch.tensor([0, 1, 4])))
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        loss.backward()
    assert counter.get_total_flops() == 0


@pytest.mark.parametrize("autocasts", [False, True])
def test_a_scaled_loss_keeps_the_range_of_float16(autocasts):
    """The gradient for an incoming 1 is below what float16 resolves, that of the scaled loss is not."""
    x, weight, target = torch.randn(4, 3), 1e-6 * torch.randn(5, 3), torch.tensor([0, 1, 4, 2])
    dtype = torch.float32 if autocasts else torch.float16
    leaf = x.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocasts):
        loss = OP.face(*arguments(leaf, weight.half().to(dtype), target))
    (found,) = torch.autograd.grad(loss, leaf, torch.tensor(2.0**15, dtype=loss.dtype))
    wide = x.half().double().requires_grad_()
    expected = OP.plain(*arguments(wide, weight.half().double(), target))
    (expected,) = torch.autograd.grad(expected, wide, torch.tensor(2.0**15, dtype=torch.float64))
    torch.testing.assert_close(
        found.double(), expected, rtol=1e-2, atol=1e-2 * expected.std().item()
    )


def test_flops():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    for reduction, forward, backward in (("mean", 3, 0), ("none", 1, 3)):
        args = arguments(x, weight, torch.tensor([0, 1, 4]), reduction)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            loss = OP.face(*args)
        assert counter.get_total_flops() == forward * 2 * 3 * 4 * 5
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            loss.sum().backward()
        assert counter.get_total_flops() == backward * 2 * 3 * 4 * 5


def test_bytes_are_class_indices_and_options_change_nothing():
    x, weight, target = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 4])
    expected = plain(*arguments(x, weight, target))
    call = fm.functional.linear_cross_entropy
    torch.testing.assert_close(call(x, weight, target.byte()), expected)
    torch.testing.assert_close(call(x, weight, target, options=object()), expected)


@pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyLoss"), reason="this PyTorch has no LinearCrossEntropyLoss"
)
def test_module_is_pytorchs():
    options = {"ignore_index": 3, "reduction": "sum", "label_smoothing": 0.25}
    theirs = nn.LinearCrossEntropyLoss(4, 5, bias=True, weight=torch.rand(5), **options).eval()
    ours = fm.nn.LinearCrossEntropyLoss.from_torch(theirs)
    assert isinstance(ours, nn.LinearCrossEntropyLoss) and not ours.training
    assert ours.linear is theirs.linear and ours.weight is theirs.weight
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert repr(ours).startswith("LinearCrossEntropyLoss(")
    x, target = torch.randn(4, 4), torch.tensor([0, 3, 1, 4])
    torch.testing.assert_close(ours(x, target), theirs(x, target))
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert twin(x, target) == ours(x, target)


def test_module_shares_a_tied_head():
    embedding = nn.Embedding(5, 4)
    loss = fm.nn.LinearCrossEntropyLoss(4, 5)
    loss.linear.weight = embedding.weight
    index = torch.tensor([[0, 2, 4]])
    loss(embedding(index), index).backward()
    found = embedding.weight.grad.clone()
    embedding.weight.grad = None
    F.cross_entropy(F.linear(embedding(index), embedding.weight)[0], index[0]).backward()
    torch.testing.assert_close(found, embedding.weight.grad)


INDEX = torch.tensor([0, 1, 4])
X, WEIGHT = torch.ones(3, 4), torch.ones(5, 4)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (arguments(X, WEIGHT[:, :3], INDEX), "weight expects 3 input features"),
        (arguments(X, WEIGHT[0], INDEX), "weight must have shape"),
        (arguments(X, WEIGHT.double(), INDEX), "weight is float64"),
        (arguments(X.int(), WEIGHT, INDEX), "must be floating point"),
        (arguments(X, WEIGHT, INDEX[:2]), "of shape (3,) as int64, target has (2,)"),
        (arguments(X, WEIGHT, INDEX.int()), "of int32"),
        (arguments(X, WEIGHT, torch.ones(3, 5)), "the target is probabilities"),
        (arguments(X, WEIGHT, INDEX.to("meta")), "target on meta"),
        (arguments(X, WEIGHT, INDEX, bias=torch.ones(4)), "bias has shape (4,)"),
        (arguments(X, WEIGHT, INDEX, class_weight=torch.ones(4)), "linear_weight has 5 classes"),
        (
            arguments(X, WEIGHT, INDEX, class_weight=torch.ones(5).requires_grad_()),
            "weight.detach()",
        ),
        (arguments(X, WEIGHT, INDEX, "median"), "choose none, mean or sum"),
        (arguments(X, WEIGHT, INDEX, smoothing=1.1), "between 0.0 and 1.0"),
        (arguments(X, WEIGHT, INDEX, smoothing=math.nan), "between 0.0 and 1.0"),
    ],
)
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)


def test_a_loss_of_several_dimensions_is_refused():
    with pytest.raises(fm.errors.InputError, match="a loss of several dimensions"):
        fm.nn.LinearCrossEntropyLoss(4, 5, out_features=(2,))


@pytest.mark.usefixtures("chunks")
@everywhere
@pytest.mark.parametrize("wants", [False, True])
@pytest.mark.parametrize("wrong", [5, -1, 2**40])
def test_class_index_out_of_range(wrong, wants, backend):
    target = torch.zeros(40, dtype=torch.int64)
    target[37] = wrong
    x = torch.ones(40, 4, requires_grad=wants)
    for class_weight in (None, torch.ones(5)):
        args = arguments(x, WEIGHT, target, class_weight=class_weight)
        with fm.use_backend(backend):
            op_checks.check_bad_input(OP, args, "target[37]")
