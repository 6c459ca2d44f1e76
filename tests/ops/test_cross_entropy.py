"""cross_entropy against torch.nn.functional.cross_entropy."""

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
from fastmodel.ops.cross_entropy.cases import CASES

OP = OpUnderTest(
    "cross_entropy", fm.functional.cross_entropy, F.cross_entropy, CASES, constants=(2,)
)
BACKENDS = [*op_checks.backends(OP.name), None]
BY_NAME = {case.name: case for case in CASES}
INDEX = torch.tensor([0, 1, 4])


def arguments(x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    return x, target, weight, None, ignore_index, None, reduction, label_smoothing


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    op_checks.check_against_float64(OP, case, backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("name", ["weight", "ignored-none", "image", "image-probability", "vector"])
def test_any_strides(name, backend):
    args = BY_NAME[name].make(torch.float32)
    op_checks.check_any_strides(OP, args, backend, BY_NAME[name].depth)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_channels_last_image(backend):
    x, *rest = BY_NAME["image"].make(torch.float32)
    args = (x.to(memory_format=torch.channels_last), *rest)
    op_checks.check_any_strides(OP, args, backend, depth=24)


ROWS = torch.tensor(
    [
        [1.0, 2.0, 3.0, 4.0, 5.0],
        [math.nan, 0.0, 1.0, 2.0, 3.0],
        [math.inf, 0.0, 1.0, 2.0, 3.0],
        [-math.inf, 0.0, 1.0, 2.0, 3.0],
        [-math.inf] * 5,
        [1e4, 1e4 + 1, -1e4, 0.0, 9.9e3],
        [3e38, -3e38, 0.0, 1.0, 2.0],
        [-1e4, -1e4 - 2, -1e4 + 3, -1e4, -1e4],
        [88.0, -104.0, -90.0, 0.0, 87.0],
    ]
)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["first", "last", "ignored", "probability", "one-hot"])
def test_special_values(kind, smoothing, reduction, backend):
    target = {
        "first": torch.zeros(9, dtype=torch.int64),
        "last": torch.full((9,), 4),
        "ignored": torch.tensor([-100, -100, -100, -100, -100, 0, -100, 1, 2]),
        "probability": torch.full((9, 5), 0.2),
        "one-hot": F.one_hot(torch.full((9,), 4), 5).float(),
    }[kind]
    for rows in (slice(0, 9), slice(5, 9), slice(3, 4)):
        args = arguments(ROWS[rows], target[rows], reduction=reduction, label_smoothing=smoothing)
        op_checks.check_special_values(OP, args, backend)


@pytest.mark.parametrize("position", [0, 5000, 8199])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e4])
def test_special_values_in_any_chunk_of_a_row(value, position):
    for base in (torch.zeros(2, 8200), torch.full((2, 8200), -math.inf)):
        x = base.clone()
        x[1, position] = value
        x[:, 4100] = 1.0
        args = arguments(x, torch.tensor([4100, 4100]), reduction="none")
        op_checks.check_special_values(OP, args, "cpu" if "cpu" in BACKENDS else None)


def test_exp_keeps_its_error_bound():
    # The gradient of class 0 in the row (x, 0) is softmax(x): exp(x) / (1 + exp(x)).
    x = torch.linspace(-103, 0, 20011)
    logits = torch.stack([x, torch.zeros_like(x)], dim=1).requires_grad_()
    fm.functional.cross_entropy(
        logits, torch.ones(len(x), dtype=torch.int64), reduction="sum"
    ).backward()
    expected = torch.sigmoid(x.double())
    # exp, its sum, log (at most ln 2, so half an ulp of it stays absolute) and exp again: 5 eps.
    bound = 5 * 2.0**-23 * expected + 2.0**-149
    assert ((logits.grad[:, 0].double() - expected).abs() <= bound).all()


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_rows_ignored(smoothing, reduction, backend):
    target = torch.full((6,), 3)
    args = arguments(torch.randn(6, 5), target, None, 3, reduction, smoothing)
    op_checks.check_special_values(OP, args, backend)


@pytest.mark.parametrize("ignore_index", [-1, 2, 7])
def test_ignore_index_in_and_out_of_the_classes(ignore_index):
    target = torch.tensor([0, ignore_index, 1, ignore_index])
    args = arguments(torch.randn(4, 5), target, torch.rand(5), ignore_index)
    op_checks.check_special_values(OP, args, None)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_weights_that_are_zero(backend):
    for weight in (torch.tensor([0.0, 1.0, 0.0]), torch.zeros(3)):
        for reduction in ("none", "mean", "sum"):
            args = arguments(torch.randn(3, 3), torch.tensor([0, 1, 2]), weight, -100, reduction)
            op_checks.check_special_values(OP, args, backend)


SCALARS = [
    case
    for case in OP.test_cases
    if case.make(torch.float32)[6] != "none" and not case.name.startswith("empty")
]


def logits_gradient(call, args, grad=None, **options):
    loss = call(*args)
    grad = torch.ones_like(loss) if grad is None else grad.to(loss.dtype)
    return torch.autograd.grad(loss, args[0], grad, **options)[0]


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("case", SCALARS, ids=str)
def test_every_backward_of_one_graph_is_right(case, backend, dtype):
    """The first takes what forward left behind, the others start again; none sees what became of another."""
    if backend is not None and not op_checks.serves(OP.name, backend, dtype):
        pytest.skip(f"{backend} has no {dtype} kernel of {OP.name}")
    x, *rest = case.make(dtype)
    x.requires_grad_()
    wide = tuple(
        a.detach().double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in (x, *rest)
    )
    wide[0].requires_grad_()
    grad = torch.tensor(-1.75)
    expected = logits_gradient(OP.plain, wide, grad)
    with fm.use_backend(backend):
        loss = OP.face(x, *rest)
        assert loss.grad_fn.name() == "_CrossEntropyBackward"
        for _ in range(3):
            grad_x = torch.autograd.grad(loss, x, grad.to(dtype), retain_graph=True)[0]
            op_checks.assert_close(grad_x, expected, dtype, case.depth, str(case))
            grad_x.fill_(torch.nan)


def test_a_second_backward_needs_the_graph_retained():
    x = torch.randn(3, 5, requires_grad=True)
    loss = OP.face(x, INDEX)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_logits_may_change_after_forward():
    """As with PyTorch's; where the gradient is to be made again from them, autograd notices."""
    x = torch.randn(3, 5, requires_grad=True)
    expected = logits_gradient(OP.plain, (x, INDEX))
    logits = x * 1
    loss = OP.face(logits, INDEX)
    logits.detach().zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, x, retain_graph=True)[0], expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_leaves_accumulate_losses():
    x = torch.randn(3, 5, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    for call, leaf in ((OP.face, x), (OP.plain, twin)):
        for _ in range(2):
            call(leaf, INDEX).backward()
        (call(leaf, INDEX) + 2 * call(leaf, INDEX, None, None, -100, None, "sum")).backward()
    torch.testing.assert_close(x.grad, twin.grad)


def test_nothing_is_kept_without_a_gradient():
    x = torch.randn(3, 5, requires_grad=True)
    with torch.no_grad():
        assert OP.face(x, INDEX).grad_fn is None
    with torch.inference_mode():
        assert OP.face(x, INDEX).grad_fn is None
    assert OP.face(x.detach(), INDEX).grad_fn is None


def test_a_batch_of_gradients():
    x = torch.randn(3, 5, requires_grad=True)
    grads = torch.tensor([1.0, -2.0, 0.5])
    found = logits_gradient(OP.face, (x, INDEX), grads, is_grads_batched=True)
    expected = logits_gradient(OP.plain, (x, INDEX), grads, is_grads_batched=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_under_checkpointing(use_reentrant):
    x = torch.randn(3, 5, requires_grad=True)
    loss = torch.utils.checkpoint.checkpoint(
        lambda x: OP.face(x * 2, INDEX), x, use_reentrant=use_reentrant
    )
    (found,) = torch.autograd.grad(loss, x) if not use_reentrant else (None,)
    if use_reentrant:
        loss.backward()
        found = x.grad
    twin = x.detach().requires_grad_()
    torch.testing.assert_close(found, logits_gradient(lambda x: OP.plain(x * 2, INDEX), (twin,)))


def test_the_first_derivative_stays_in_a_graph_that_wants_the_second():
    x = torch.randn(3, 5, requires_grad=True)
    for call in (OP.face, OP.plain):
        (first,) = torch.autograd.grad(call(x, INDEX), x, create_graph=True)
        assert first.requires_grad
    op_checks.check_mixed_second_derivative(OP, arguments(x.detach(), INDEX), None)


@pytest.mark.parametrize("name", ["probability-all", "image-probability"])
def test_only_the_gradients_wanted(name):
    op_checks.check_only_the_gradients_wanted(OP, BY_NAME[name].make(torch.float32))


DERIVED = [
    "weight",
    "ignored-none",
    "smoothing-weight-ignored",
    "image",
    "probability-weight",
    "probability-all",
]


@pytest.mark.parametrize("name", DERIVED)
def test_derivatives(name):
    x, *rest = BY_NAME[name].make(torch.float64)
    op_checks.check_derivatives(OP, (x[:6], rest[0][:6], *rest[1:]))


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("name", DERIVED)
def test_second_derivative_of_float32(name, backend):
    op_checks.check_mixed_second_derivative(OP, BY_NAME[name].make(torch.float32), backend)


def test_gradient_of_the_weight_with_probabilities():
    x, target, weight, *_ = BY_NAME["probability-all"].make(torch.float32)
    op = OpUnderTest("cross_entropy", OP.face, OP.plain, CASES)
    for reduction in ("none", "mean", "sum"):
        args = arguments(x, target, weight, reduction=reduction, label_smoothing=0.1)
        op_checks.check_only_the_gradients_wanted(op, args)
    op_checks.check_derivatives(op, BY_NAME["probability-all"].make(torch.float64))
    with fm.use_backend("cpu"), pytest.raises(fm.errors.BackendError, match="gradient of weight"):
        fm.functional.cross_entropy(x, target, weight.requires_grad_()).backward()


@pytest.mark.parametrize("name", ["tiny", "ignored-none", "image", "image-probability"])
def test_registration(name):
    args = BY_NAME[name].make(torch.float32)
    x, target, weight, _, ignore_index, _, reduction, smoothing = args
    code = {"none": 0, "mean": 1, "sum": 2}[reduction]
    wanted = [True, target.is_floating_point(), False]

    def backward_args(args, outs):
        x, target, weight, *options = args
        return torch.randn_like(outs[0]), x, target, weight, outs[1], *options, wanted

    op_args = (x, target, weight, ignore_index, code, smoothing)
    op_checks.check_registration(OP, op_args, backward_args)


@pytest.mark.parametrize("name", ["tiny", "weight", "image", "probability", "image-probability"])
def test_compiles_as_one_graph(name):
    x, target, weight, *_, reduction, _ = BY_NAME[name].make(torch.float32)
    for smoothing in (0.0, 0.1):
        module = fm.nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=smoothing)
        op_checks.check_compiles(module, x, target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["weight", "probability-all"])
def test_autocast(name, dtype):
    op_checks.check_autocast(OP, BY_NAME[name].make(torch.float32), dtype, BY_NAME[name].depth)


def test_compiles_under_autocast():
    module = fm.nn.CrossEntropyLoss(torch.rand(5))
    x = torch.randn(3, 5, dtype=torch.bfloat16)
    target = torch.tensor([0, 1, 4])
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(x, target), module(x, target))


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("target_dtype", [torch.float32, torch.float64], ids=str)
def test_probabilities_of_another_dtype_promote(x_dtype, target_dtype):
    x = torch.randn(4, 5).to(x_dtype).requires_grad_()
    target = torch.rand(4, 5).to(target_dtype).requires_grad_()
    ours, theirs = OP.face(x, target), OP.plain(x, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    grads = torch.autograd.grad(ours, (x, target))
    for a, b in zip(grads, torch.autograd.grad(theirs, (x, target)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_bytes_and_a_row_of_one_are_class_indices():
    x = torch.randn(3, 5)
    target = torch.tensor([0, 1, 4])
    assert torch.equal(OP.face(x, target.byte()), OP.face(x, target))
    torch.testing.assert_close(OP.face(x[0], target[:1]), OP.plain(x[0], target[:1]))


def test_deterministic_and_governed_by_the_thread_count():
    x, target, *rest = BY_NAME["two-threads"].make(torch.float32)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            first, second = OP.face(x, target, *rest), OP.face(x, target, *rest)
            assert torch.equal(first, second)
            expected = OP.plain(x.double(), target, rest[0].double(), *rest[1:])
            op_checks.assert_close(first, expected, torch.float32, 1000, f"{count} threads")
    finally:
        torch.set_num_threads(threads)


def test_deprecated_arguments():
    x, target = torch.randn(3, 5), torch.tensor([0, 1, 4])
    for size_average in (None, False, True):
        for reduce in (None, False, True):
            if size_average is None and reduce is None:
                continue
            with pytest.warns(UserWarning, match="deprecated"):
                ours = OP.face(x, target, size_average=size_average, reduce=reduce)
            with pytest.warns(UserWarning, match="deprecated"):
                theirs = OP.plain(x, target, size_average=size_average, reduce=reduce)
            torch.testing.assert_close(ours, theirs)


def test_no_flops_are_counted_as_pytorch_counts_none():
    x = torch.randn(3, 5, requires_grad=True)
    for call in (OP.face, OP.plain):
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            call(x, torch.tensor([0, 1, 4])).backward()
        assert counter.get_total_flops() == 0


def test_module_is_a_cross_entropy_loss():
    options = {"ignore_index": 3, "reduction": "sum", "label_smoothing": 0.25}
    plain = nn.CrossEntropyLoss(torch.rand(5), **options).eval()
    fused = fm.nn.CrossEntropyLoss.from_torch(plain)
    assert isinstance(fused, nn.CrossEntropyLoss) and not fused.training
    assert fused.weight is plain.weight
    assert {name: getattr(fused, name) for name in options} == options
    x, target = torch.randn(4, 5), torch.tensor([0, 3, 1, 4])
    torch.testing.assert_close(fused(x, target), plain(x, target))
    plain.load_state_dict(fused.state_dict())
    fused.load_state_dict(plain.state_dict())
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert twin(x, target) == fused(x, target)
    assert fm.nn.CrossEntropyLoss.from_torch(nn.CrossEntropyLoss()).weight is None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (arguments(torch.tensor(1.0), torch.tensor(0)), "input has no dimensions"),
        (arguments(torch.ones(3, 5, dtype=torch.int64), INDEX), "must be floating point"),
        (arguments(torch.ones(3, 5), INDEX[:2]), "of shape (3,), target has (2,)"),
        (arguments(torch.ones(3, 5, 2), INDEX), "of shape (3, 2), target has (3,)"),
        (arguments(torch.ones(3, 5), INDEX.int()), "pass class indices as int64"),
        (arguments(torch.ones(3, 5), INDEX.float()), "dtype float32 and shape (3,)"),
        (arguments(torch.ones(3, 5), torch.ones(3, 4)), "probabilities of input's shape (3, 5)"),
        (arguments(torch.ones(3, 5), torch.ones(3, 5).long()), "must be floating point"),
        (arguments(torch.ones(3, 5), torch.ones(3, 5), None, 2), "is for class indices"),
        (arguments(torch.ones(3, 5), INDEX, torch.ones(4)), "input has 5 classes"),
        (arguments(torch.ones(3, 5), INDEX, torch.ones(5).double()), "weight is float64"),
        (arguments(torch.ones(3, 5), INDEX, torch.ones(5).requires_grad_()), "weight.detach()"),
        (arguments(torch.ones(3, 5), INDEX.to("meta")), "target on meta"),
        (arguments(torch.ones(3, 5), INDEX, reduction="median"), "choose none, mean or sum"),
        (arguments(torch.ones(3, 5), INDEX, label_smoothing=1.1), "between 0.0 and 1.0"),
        (arguments(torch.ones(3, 5), INDEX, label_smoothing=-0.1), "between 0.0 and 1.0"),
        (arguments(torch.ones(3, 5), INDEX, label_smoothing=math.nan), "between 0.0 and 1.0"),
    ],
)
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("wrong", [5, -1, 2**40, -(2**40)])
def test_class_index_out_of_range(wrong, backend):
    target = torch.zeros(2, 3, dtype=torch.int64)
    target[1, 2] = wrong
    with fm.use_backend(backend):
        op_checks.check_bad_input(OP, arguments(torch.ones(2, 5, 3), target), "target[1, 2]")
        with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
            OP.face(torch.ones(5), torch.tensor(wrong))


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_backward_rejects_an_index_out_of_range(backend):
    backward = torch.ops.fastmodel.cross_entropy_backward
    stats = torch.ones(3)
    args = (torch.ones(5)[None], torch.tensor([5]), None, stats, -100, 2, 0.0, [True, False, False])
    with fm.use_backend(backend), pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        backward(torch.tensor(1.0), *args)
