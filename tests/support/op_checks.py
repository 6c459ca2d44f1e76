"""What every op is held to: forward and gradient against float64, opcheck, gradcheck, compile, autocast.

An `OpUnderTest` names the op's functional face, its reference and its cases; the functions below are the
checks, called from tests/ops/test_<op>.py.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.ops import table
from fastmodel.ops.case import Case, tolerance

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class OpUnderTest:
    """One op as the tests see it."""

    name: str
    face: Callable
    """The public function; takes a case's arguments."""
    plain: Callable
    """The same from torch.nn.functional's own functions: an oracle that shares no code with the op."""
    cases: tuple[Case, ...]
    constants: tuple[int, ...] = ()
    """Positions of floating arguments that get no gradient here."""

    def leaves(self, args: tuple, dtype: torch.dtype | None = None) -> tuple:
        """`leaves`, with the constants converted alone."""
        found = leaves(args, dtype)
        for position in self.constants:
            if found[position] is not None:
                found[position].requires_grad_(False)
        return found

    @property
    def test_cases(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if not case.is_bench)


def backends(op: str) -> list[str]:
    """The backends with an available row for every pass of the op."""
    by_pass: dict[str, set[str]] = {}
    for row in table.ROWS:
        if row.op == op and row.available and row.takes("cpu", torch.float32) is None:
            by_pass.setdefault(row.pass_, set()).add(row.backend)
    return sorted(set.intersection(*by_pass.values()))


def serves(op: str, backend: str, dtype: torch.dtype, device_type: str = "cpu") -> bool:
    """Does the table list a kernel of this backend, dtype and device for every pass?"""
    passes = {row.pass_ for row in table.ROWS if row.op == op}
    return all(
        any(
            row.backend == backend and row.takes(device_type, dtype, by_name=True) is None
            for row in table.rows_of(op, p)
        )
        for p in passes
    )


def tensors(args: tuple) -> list[torch.Tensor]:
    """The tensors among a call's arguments that want a gradient."""
    return [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]


def leaves(args: tuple, dtype: torch.dtype | None = None) -> tuple:
    """The arguments with each floating tensor a fresh leaf that wants a gradient, strides kept."""

    def leaf(value):
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            return value
        return value.detach().to(dtype or value.dtype).requires_grad_(True)

    return tuple(leaf(value) for value in args)


def gradient_like(out: torch.Tensor, name: str) -> torch.Tensor:
    """A fixed random incoming gradient, exact in every dtype so that all runs get the same."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randint(-16, 17, out.shape, generator=generator).to(out.device, out.dtype) / 8


def run_with_gradients(call: Callable, args: tuple, name: str) -> list[torch.Tensor]:
    """[out, gradient of every floating tensor argument]."""
    out = call(*args)
    return [out, *torch.autograd.grad(out, tensors(args), gradient_like(out, name))]


def assert_close(found, expected, dtype: torch.dtype, depth: int, what: str) -> None:
    """found (any dtype) equals expected (float64) to the bound of fastmodel.ops.case.tolerance.

    atol holds for unit scale, so it is scaled by the expected values' root mean square where that is above 1.
    """
    expected = expected.to(torch.float64)
    bound = tolerance(dtype, depth)
    if expected.numel():
        bound["atol"] *= max(1.0, expected.square().mean().sqrt().nan_to_num(1.0).item())
    torch.testing.assert_close(
        found.to(torch.float64), expected, **bound, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


def check_against_float64(op: OpUnderTest, case: Case, backend: str | None, dtype) -> None:
    """Forward and every gradient of the op equal the plain composition in float64.

    ReLU's mask and the pool's maximum are taken from the same rounded inputs, so a low-precision forward
    agrees with float64 on which values live except at exact rounding ties, which random inputs avoid: the
    forward here accumulates in float32 and rounds once.

    A named backend that has no kernel of this dtype is skipped.
    """
    args = op.leaves(case.make(dtype))
    if backend is not None and not serves(op.name, backend, dtype, args[0].device.type):
        pytest.skip(f"{backend} has no {dtype} kernel of {op.name}")
    with fm.use_backend(backend):
        found = run_with_gradients(op.face, args, case.name)
    expected = run_with_gradients(op.plain, op.leaves(args, torch.float64), case.name)
    names = ["output", *[f"gradient {i}" for i in range(len(found) - 1)]]
    for name, a, b in zip(names, found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == dtype
        assert_close(a, b, dtype, case.depth, f"{case} {name}")


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a view with gaps: every second element of a buffer, dimensions reversed.

    The gaps hold NaN, so that a kernel which reads or assumes neighbours shows.
    """
    buffer = torch.full((*reversed(tensor.shape), 2), torch.nan).to(tensor)
    view = buffer[..., 0].permute(tuple(reversed(range(tensor.dim()))))
    return view.copy_(tensor)


def apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a part of rows twice as long, as a chunk is; the rest holds NaN."""
    if not tensor.dim():
        return tensor
    rest = torch.full(tensor.shape, torch.nan).to(tensor)
    return torch.cat([tensor, rest], -1)[..., : tensor.shape[-1]]


def check_any_strides(op: OpUnderTest, args: tuple, backend: str | None, depth: int) -> None:
    """The float32 arguments as the caller laid them out, strided, and with rows apart answer as float64 does.

    The incoming gradient is strided, or its rows lie apart. Inputs must be left as they are.
    """
    gapped, spread = (
        tuple(layout(a) if isinstance(a, torch.Tensor) else a for a in args)
        for layout in (strided, apart)
    )
    for laid_out, layout in ((args, strided), (gapped, strided), (args, apart), (spread, apart)):
        before = [a.clone() if isinstance(a, torch.Tensor) else a for a in laid_out]
        found = _with_gradient_in(layout, op.face, op.leaves(laid_out), backend)
        for a, b in zip(laid_out, before, strict=True):
            assert a is b or torch.equal(a, b), "an input was changed"
        wide = op.leaves(laid_out, torch.float64)
        expected = _with_gradient_in(layout, op.plain, wide, None)
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert_close(a, b, torch.float32, depth, "strided")


def _with_gradient_in(
    layout: Callable, call: Callable, args: tuple, backend: str | None
) -> list[torch.Tensor]:
    with fm.use_backend(backend):
        out = call(*args)
        grad = layout(gradient_like(out, "strided"))
        return [out, *torch.autograd.grad(out, tensors(args), grad)]


def check_bfloat16_rounding(
    op: OpUnderTest, outer: tuple, inner: tuple, backend: str | None
) -> None:
    """bfloat16 results are float32's rounded once to nearest even, to the last bit.

    Args:
        outer: positive arguments of which every output is one product, exact in float32.
        inner: positive arguments of which every gradient is one product.
    """
    outer, inner = (
        tuple(a.to(torch.bfloat16) if isinstance(a, torch.Tensor) else a for a in args)
        for args in (outer, inner)
    )

    def run(call, dtype):
        out = call(*op.leaves(outer, dtype))
        leaves_of_inner = op.leaves(inner, dtype)
        alive = call(*leaves_of_inner)
        grad = torch.full_like(alive, 1.0078125)  # An odd last bit: products need rounding.
        return [out, *torch.autograd.grad(alive, tensors(leaves_of_inner), grad)]

    with fm.use_backend(backend):
        found = run(op.face, torch.bfloat16)
    for a, b in zip(found, run(op.plain, torch.float32), strict=True):
        assert torch.equal(a, b.to(torch.bfloat16))


def check_thread_counts(op: OpUnderTest, case: Case, backend: str | None, threads: int) -> None:
    """The float64 bound holds for this many threads, and two runs give the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with fm.use_backend(backend):
            runs = [
                run_with_gradients(op.face, op.leaves(case.make(torch.float32)), case.name)
                for _ in range(2)
            ]
    finally:
        torch.set_num_threads(before)
    wide = op.leaves(case.make(torch.float32), torch.float64)
    expected = run_with_gradients(op.plain, wide, case.name)
    for a, b, c in zip(*runs, expected, strict=True):
        assert torch.equal(a, b)
        assert_close(a, c, torch.float32, case.depth, f"{case}, {threads} threads")


def check_special_values(op: OpUnderTest, args: tuple, backend: str | None) -> None:
    """Output and gradients have NaN and infinity exactly where PyTorch's own float32 ops have them."""
    with fm.use_backend(backend):
        found = _with_ones(op.face, op.leaves(args))
    for a, b in zip(found, _with_ones(op.plain, op.leaves(args)), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def _with_ones(call, args: tuple) -> list[torch.Tensor]:
    out = call(*args)
    return [out, *torch.autograd.grad(out, tensors(args), torch.ones_like(out))]


def check_only_the_gradients_wanted(op: OpUnderTest, args: tuple) -> None:
    """Whichever of the floating tensors want a gradient, these and no others get it."""
    count = len(tensors(op.leaves(args)))
    for flags in itertools.product([False, True], repeat=count):
        if not any(flags):
            continue
        ours, theirs = op.leaves(args), op.leaves(args)
        twins = tensors(ours), tensors(theirs)
        for *pair, flag in zip(*twins, flags, strict=True):
            for tensor in pair:
                tensor.requires_grad_(flag)
        op.face(*ours).sum().backward()
        op.plain(*theirs).sum().backward()
        for a, b in zip(*twins, strict=True):
            assert (a.grad is None) == (b.grad is None), flags
            if a.grad is not None:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def check_derivatives(op: OpUnderTest, args: tuple) -> None:
    """First and second derivatives against finite differences; args in float64."""
    args = op.leaves(args)
    assert torch.autograd.gradcheck(op.face, args)
    assert torch.autograd.gradgradcheck(op.face, args)


def check_mixed_second_derivative(op: OpUnderTest, args: tuple, backend: str | None) -> None:
    """The gradient of a gradient's norm (a gradient penalty) in float32 through native kernels."""

    def penalty(call, args):
        out = call(*args)
        first = torch.autograd.grad(
            out, tensors(args), gradient_like(out, "penalty"), create_graph=True
        )
        total = sum(grad.square().sum() for grad in first)
        return torch.autograd.grad(total, tensors(args), allow_unused=True, materialize_grads=True)

    with fm.use_backend(backend):
        found = penalty(op.face, op.leaves(args))
    for a, b in zip(found, penalty(op.plain, op.leaves(args, torch.float64)), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def check_registration(op: OpUnderTest, args: tuple, backward_args: Callable) -> None:
    """torch.library.opcheck of the forward op and of its backward op.

    Args:
        args: of the forward op.
        backward_args: given (args, outputs of the forward op as a tuple), those of the backward op.
    """
    ops = torch.ops.fastmodel
    args = op.leaves(args)
    torch.library.opcheck(getattr(ops, op.name).default, args)
    outs = getattr(ops, op.name)(*args)
    outs = tuple(o.detach() for o in (outs if isinstance(outs, tuple) else (outs,)))
    torch.library.opcheck(getattr(ops, f"{op.name}_backward").default, backward_args(args, outs))


def check_compiles(module: nn.Module, *inputs: torch.Tensor) -> None:
    """torch.compile takes the module as one graph; outputs and every gradient agree with eager."""
    torch._dynamo.reset()

    def run(call):
        args = leaves(inputs)
        out = call(*args)
        wanted = [*tensors(args), *module.parameters()]
        return [out, *torch.autograd.grad(out, wanted, gradient_like(out, "compiled"))]

    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled), run(module), strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b)


def check_autocast(op: OpUnderTest, args: tuple, dtype: torch.dtype, depth: int) -> None:
    """Under autocast the output's dtype and values are PyTorch's own, gradients keep the leaf's dtype.

    Also with the lead in the region's dtype and the rest in float32, as behind another autocast layer.
    """
    for lead in (torch.float32, dtype):
        mixed = op.leaves((args[0].to(lead), *args[1:]))
        with torch.autocast("cpu", dtype=dtype):
            out, expected = op.face(*mixed), op.plain(*mixed)
        assert out.dtype == expected.dtype
        assert_close(out, expected, dtype, depth, f"autocast, {lead} input")
        out.float().sum().backward()
        for tensor in tensors(mixed):
            assert tensor.grad.dtype == tensor.dtype


def check_module_twins(fused: nn.Module, plain: Callable, x: torch.Tensor, tmp_path) -> None:
    """Copies, pickles and a saved state_dict of the fused module compute what `plain` does."""
    loaded = copy.deepcopy(fused)
    for tensor in loaded.state_dict().values():
        tensor.zero_()
    torch.save(fused.state_dict(), tmp_path / "state.pt")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), loaded):
        torch.testing.assert_close(twin(x), plain(x))


def check_bad_input(op: OpUnderTest, args: tuple, words: str) -> None:
    """One line that begins with the op's name and holds `words`."""
    with pytest.raises(fm.errors.InputError) as raised:
        op.face(*args)
    assert words in str(raised.value)
    assert str(raised.value).startswith(f"{op.name}: ") and "\n" not in str(raised.value)
