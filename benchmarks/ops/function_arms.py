"""The arms of the ops that are functions: forward alone, and forward with backward."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import arms
import torch
import torch.nn.functional as F
from torch import Tensor

import fastmodel as fm
from fastmodel.ops.case import Case

FORWARD, TRAINING = "forward", "forward+backward"

# Where rounding may decide which way a gradient goes (the sign under a ReLU, the maximum of a pool), no two
# float32 kernels need agree: within this distance of a decision the incoming gradient is 0. It lies above a
# float32 sum's error and keeps more than 99.9 % of the gradient.
_UNDECIDED = 1e-4


@dataclass(frozen=True)
class Function:
    """One op as the benches see it."""

    face: Callable
    plain: Callable
    """The same as a user of PyTorch writes it, at its best: ReLU in place."""
    margin: Callable[..., Tensor] | None = None
    """How far each output is from a decision; for the float64 arguments."""
    has_layouts: bool = False
    """PyTorch has a channels_last arm."""
    timed_options: tuple | None = None
    """What the last arguments are while the clock runs, where the numbers are checked without: a dropout's
    rate, whose mask is another in each arm."""
    constants: tuple[int, ...] = ()
    """Positions of the tensors that want no gradient."""
    backward_share: int = 2
    """FLOPs of backward over those of forward: a product each for x and weight."""


def _conv_relu(*args) -> Tensor:
    return F.relu(F.conv2d(*args), inplace=True)


def _conv_relu_maxpool(*args) -> Tensor:
    return F.max_pool2d(_conv_relu(*args[:7]), *args[7:])


def _pool_margin(*args) -> Tensor:
    """Distance of the maximum to 0 and to the second of its window."""
    *conv, pool, pool_stride, (h, w) = args
    step = pool_stride or pool
    dense = F.pad(F.conv2d(*conv), (w, w, h, h), value=-torch.inf)
    windows = dense.unfold(2, pool[0], step[0]).unfold(3, pool[1], step[1]).flatten(4)
    first, second = windows.topk(2).values.unbind(-1)
    return torch.minimum(first.abs(), first - second)


def _linear_and(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *args: activation(F.linear(*args))


def _linear_relu_dropout(x: Tensor, weight: Tensor, bias: Tensor | None, p: float) -> Tensor:
    alive = F.relu(F.linear(x, weight, bias), inplace=True)
    # The ReLU's backward reads its output, which the dropout must not change then.
    return F.dropout(alive, p, inplace=not torch.is_grad_enabled())


def _batch_norm_relu(*args) -> Tensor:
    return F.relu(F.batch_norm(*args), inplace=True)


def _add_layer_norm(x: Tensor, residual: Tensor, *args) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.layer_norm(total, *args), total


def _add_rms_norm(x: Tensor, residual: Tensor, *args) -> tuple[Tensor, Tensor]:
    total = x + residual
    return F.rms_norm(total, *args), total


def _linear_cross_entropy(x, weight, target, bias, class_weight, reduction, smoothing) -> Tensor:
    return fm.functional.linear_cross_entropy(
        x,
        weight,
        target,
        linear_bias=bias,
        weight=class_weight,
        reduction=reduction,
        label_smoothing=smoothing,
    )


def _cross_entropy_of_linear(x, weight, target, bias, class_weight, reduction, smoothing) -> Tensor:
    logits = F.linear(x, weight, bias)
    return F.cross_entropy(
        logits, target, class_weight, reduction=reduction, label_smoothing=smoothing
    )


def _turned(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, crossed: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """As Hugging Face's models write it."""
    return q * cos + crossed(q) * sin, k * cos + crossed(k) * sin


def _rope(*args: Tensor) -> tuple[Tensor, Tensor]:
    def crossed(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1)

    return _turned(*args, crossed)


def _rope_interleaved(*args: Tensor) -> tuple[Tensor, Tensor]:
    return _turned(*args, lambda x: torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2))


FUNCTIONS = {
    # Sums and sweeps of backward over those of forward: twice as many. Both results feed what follows, as the
    # sum is the next residual.
    "add_layer_norm": Function(fm.functional.add_layer_norm, _add_layer_norm),
    "add_rms_norm": Function(fm.functional.add_rms_norm, _add_rms_norm),
    # Twice the sums of forward, and a multiply-add more for each gradient of x.
    "batch_norm_relu": Function(
        fm.functional.batch_norm_relu,
        _batch_norm_relu,
        lambda *args: F.batch_norm(*args).abs(),
        has_layouts=True,
        backward_share=2,
        constants=(1, 2),
    ),
    "conv_relu": Function(
        fm.functional.conv_relu, _conv_relu, lambda *args: F.conv2d(*args).abs(), has_layouts=True
    ),
    "conv_relu_maxpool": Function(
        fm.functional.conv_relu_maxpool, _conv_relu_maxpool, _pool_margin, has_layouts=True
    ),
    # Softmax again, and a product with the gradient.
    "cross_entropy": Function(
        fm.functional.cross_entropy, F.cross_entropy, backward_share=1, constants=(2,)
    ),
    "layer_norm": Function(fm.functional.layer_norm, F.layer_norm),
    # The slope beside the value, and two products with each.
    **{
        name: Function(
            getattr(fm.functional, name),
            lambda gate, up, activation=activation: activation(gate) * up,
            backward_share=2,
        )
        for name, activation in (
            ("geglu", F.gelu),
            ("geglu_tanh", functools.partial(F.gelu, approximate="tanh")),
            ("swiglu", F.silu),
        )
    },
    # PyTorch's own linear_cross_entropy by chunks is the slower one: 22 ms where this takes 19, 5.2 s for
    # 1.5.
    "linear_cross_entropy": Function(
        _linear_cross_entropy, _cross_entropy_of_linear, constants=(4,)
    ),
    "linear": Function(fm.functional.linear, F.linear),
    "linear_relu": Function(
        fm.functional.linear_relu,
        lambda *args: F.relu(F.linear(*args), inplace=True),
        lambda *args: F.linear(*args).abs(),
    ),
    "linear_relu_dropout": Function(
        fm.functional.linear_relu_dropout,
        _linear_relu_dropout,
        lambda *args: F.linear(*args[:3]).abs(),
        timed_options=(0.5,),
    ),
    **{
        f"linear_{name}": Function(
            getattr(fm.functional, f"linear_{name}"), _linear_and(activation)
        )
        for name, activation in (
            ("gelu", F.gelu),
            ("sigmoid", torch.sigmoid_),
            ("silu", lambda pre: F.silu(pre, inplace=not pre.requires_grad)),
            ("tanh", torch.tanh_),
        )
    },
    "mse_loss": Function(fm.functional.mse_loss, F.mse_loss, backward_share=1),
    "rms_norm": Function(fm.functional.rms_norm, F.rms_norm),
    "rope": Function(fm.functional.rope, _rope, constants=(2, 3), backward_share=1),
    "rope_interleaved": Function(
        fm.functional.rope_interleaved, _rope_interleaved, constants=(2, 3), backward_share=1
    ),
}


def contest(op: str, case: Case, pass_: str, is_compiled: bool) -> arms.Contest:
    """Every arm on the case's float32 arguments; `is_compiled` adds those of torch.compile.

    Ours take the case's own layout; PyTorch's convolutions are given contiguous tensors in one arm and
    channels_last ones in the other. Each arm's incoming gradient lies in memory as its output does.
    """
    function = FUNCTIONS[op]
    args = case.make(torch.float32)
    grads, expected = _float64(function, args, pass_)

    def make(call: Callable, layout: torch.memory_format | None = None):
        leaves = _leaves(function, args, layout=layout)
        answer = _pass(call, leaves, grads, pass_)
        if function.timed_options is None:
            return answer, answer
        options = function.timed_options
        run = _pass(call, (*leaves[: -len(options)], *options), grads, pass_)
        return run, lambda: (run(), answer())[1]  # both warmed up

    found = arms.ours(op, lambda: make(function.face))
    layouts = {"": torch.contiguous_format}
    if function.has_layouts:
        layouts[" channels_last"] = torch.channels_last
    for name, layout in layouts.items():
        found["torch" + name] = arms.Arm(*make(function.plain, layout))
        if is_compiled:
            found["torch.compile" + name] = arms.Arm(*make(arms.compiled(function.plain), layout))
    left_out = {} if is_compiled else {"torch.compile": "--compile none"}
    is_training = pass_ == TRAINING
    # Backward reads what forward reads, with a gradient in place of the output, and writes the gradients.
    gradients = sum(leaf.numel() * 4 for leaf in _wanted(_leaves(function, args)))
    return arms.Contest(
        found,
        expected,
        case.depth,
        case.flops * (1 + function.backward_share * is_training),
        case.bytes_float32 * (1 + is_training) + gradients * is_training,
        left_out,
    )


def _leaves(
    function: Function,
    args: tuple,
    dtype=torch.float32,
    layout: torch.memory_format | None = None,
) -> tuple:
    """The arguments with each floating tensor a leaf of its own; an image wants no gradient."""

    def leaf(position, value):
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        is_image = value.dim() == 4 and value is args[0] and value.shape[1] <= 3
        made = value.detach().to(dtype, copy=True)
        if layout is not None:
            made = made.contiguous(
                memory_format=layout if made.dim() == 4 else torch.contiguous_format
            )
        is_constant = is_image or position in function.constants
        return made.requires_grad_(not is_constant)

    return tuple(itertools.starmap(leaf, enumerate(args)))


def _wanted(args: tuple) -> list[Tensor]:
    return [value for value in args if isinstance(value, Tensor) and value.requires_grad]


def _results(out: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def _float64(function: Function, args: tuple, pass_: str) -> tuple[list[Tensor], list[Tensor]]:
    """The incoming gradient of each result, and the answer."""
    wide = _leaves(function, args, torch.float64)
    outs = _results(function.plain(*wide))
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randint(-16, 17, out.shape, generator=generator).double() / 8 for out in outs]
    if not outs[0].dim():
        grads[0].fill_(1)
    if function.margin is not None:
        with torch.no_grad():
            grads[0][function.margin(*wide) < _UNDECIDED] = 0
    answer = [out.detach() for out in outs]
    if pass_ == FORWARD:
        return grads, answer
    return grads, [*answer, *torch.autograd.grad(outs, _wanted(wide), grads)]


def _pass(
    call: Callable, args: tuple, grads: list[Tensor], pass_: str
) -> Callable[[], list[Tensor]]:
    @torch.no_grad()
    def forward() -> list[Tensor]:
        return _results(call(*args))

    if pass_ == FORWARD:
        return forward
    wanted: list[Tensor] = _wanted(args)
    own_grads: list[Tensor] = []

    def training() -> list[Tensor]:
        outs = _results(call(*args))
        if not own_grads:
            own_grads.extend(
                torch.empty_like(out).copy_(grad) for out, grad in zip(outs, grads, strict=True)
            )
        return [*outs, *torch.autograd.grad(outs, wanted, own_grads)]

    return training
