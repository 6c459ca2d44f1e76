"""Kernel calls, captured once and made again over other memory: what CUDA graphs do for launches.

Our kernels take addresses, so a piece of code that only allocates and calls them is known by its calls: which
kernels, in which order, and which tensor each address lies in. Made again, there is one allocation for
all that lies in between, and next to no Python from one kernel to the next, when the caches have
forgotten it. Code that does anything else is not captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastmodel import env

_ALIGNMENT = 64
_LEAST_ADDRESS = 2**32
"""No size or stride is so large, no address so small."""
_SEED_MASK = 2**64 - 1

_ALLOCATIONS = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
}
_VIEWS = {
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.as_strided.default,
    torch.ops.aten.detach.default,
    torch.ops.aten.select.int,
    torch.ops.aten.t.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.unsqueeze.default,
    torch.ops.aten.view.default,
}
_SEEDS = {torch.ops.aten.randint.default, torch.ops.aten.randint.low}


@dataclass(frozen=True)
class Place:
    """Where a tensor of a program lies: in which of its inputs, outputs or the block, and how."""

    slot: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    is_in_block: bool

    def tensor(self, memory: Sequence[Tensor | None]) -> Tensor:
        """The tensor, given those that the slots stand for."""
        within = memory[self.slot]
        assert within is not None
        if not self.is_in_block:  # an input or output, or another shape of it
            return within if within.shape == self.shape else within.reshape(self.shape)
        flat = within[self.offset : self.offset + _span(self)].view(self.dtype)
        return flat.as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class _Call:
    kernel: Callable
    args: tuple
    patches: tuple[tuple[int, int, int], ...]
    """(place among args, slot, offset) of each address or seed."""
    returned: Any


@dataclass(frozen=True)
class Result:
    """What a program left."""

    outputs: list[Tensor]
    block: Tensor
    seeds: list[Tensor]


@dataclass(frozen=True)
class Program:
    """Calls to make again. Slots: the inputs, then the block, the outputs and the seeds."""

    calls: tuple[_Call, ...]
    inputs: int
    block_bytes: int
    outputs: tuple[Place, ...]
    seeds: tuple[tuple[Callable, tuple, dict], ...]
    """The calls that drew random seeds."""

    def run(
        self, inputs: Sequence[Tensor | None], seeds: list[Tensor] | None = None
    ) -> Result | None:
        """Make the calls again.

        Args:
            inputs: as many as were captured, of their shapes, strides and dtypes.
            seeds: to use; None to draw them anew.

        Returns:
            None where a kernel answered otherwise than when it was captured; then nothing holds.
        """
        block = torch.empty(self.block_bytes, dtype=torch.uint8)
        outputs = [torch.empty_strided(o.shape, o.stride, dtype=o.dtype) for o in self.outputs]
        if seeds is None:
            seeds = [draw(*args, **kwargs) for draw, args, kwargs in self.seeds]
        bases = [0 if t is None else t.data_ptr() for t in (*inputs, block, *outputs)]
        bases += [int(seed) & _SEED_MASK for seed in seeds]
        for call in self.calls:
            args = list(call.args)
            for at, slot, offset in call.patches:
                args[at] = bases[slot] + offset
            if call.kernel(*args) != call.returned:
                return None
        return Result(outputs, block, seeds)


class Capture(TorchDispatchMode):
    """Watches a piece of code that is to become a program.

    Args:
        inputs: the tensors that it reads, or None for what is left out.
    """

    def __init__(self, inputs: Sequence[Tensor | None]) -> None:
        super().__init__()
        self._inputs = inputs
        self._allocated: list[Tensor] = []
        self._seeds: list[tuple[Tensor, tuple[Callable, tuple, dict]]] = []
        self._calls: list[tuple[Callable, tuple, Any]] = []
        self._is_foreign = False
        self._through = env.native_through(_Watched(env.native(), self._calls))

    @property
    def seeds(self) -> list[Tensor]:
        """What the code drew."""
        return [seed for seed, _ in self._seeds]

    def __enter__(self) -> Capture:
        self._through.__enter__()
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        self._through.__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func in _ALLOCATIONS:
            self._allocated.append(found)
        elif func in _SEEDS and found.dim() == 0:
            self._seeds.append((found, (func, args, kwargs)))
        elif func is not torch.ops.aten._local_scalar_dense.default and func not in _VIEWS:
            self._is_foreign = True
        return found

    def program(
        self, outputs: Sequence[Tensor]
    ) -> tuple[Program, Callable[[Tensor], Place]] | None:
        """The program that leaves these tensors, each a whole allocation of the code that was watched.

        Returns:
            The program, and what says where any tensor lies that the code made or read. None where the code
            did more than allocate, view, draw seeds and call kernels.
        """
        if self._is_foreign:
            return None
        count = len(self._inputs)
        ranges = [
            (t.data_ptr(), t.data_ptr() + _span(t), slot, 0)
            for slot, t in enumerate(self._inputs)
            if t is not None
        ]
        starts = {output.data_ptr(): i for i, output in enumerate(outputs)}
        size = 0
        for tensor in self._allocated:
            span = _span(tensor)
            if span == 0:
                continue
            start = tensor.data_ptr()
            own = starts.get(start)
            if own is not None:
                ranges.append((start, start + span, count + 1 + own, 0))
            else:
                ranges.append((start, start + span, count, size))
                size += -(-span // _ALIGNMENT) * _ALIGNMENT
        seeds = {int(seed): i for i, (seed, _) in enumerate(self._seeds)}
        first_seed = count + 1 + len(outputs)

        def find(address: int) -> tuple[int, int] | None:
            for start, end, slot, offset in ranges:
                if start <= address < end:
                    return slot, offset + address - start
            return (first_seed + seeds[address], 0) if address in seeds else None

        calls = []
        for kernel, args, returned in self._calls:
            patches = []
            for at, value in enumerate(args):
                if type(value) is int and value >= _LEAST_ADDRESS:
                    found = find(value)
                    if found is None:
                        return None
                    patches.append((at, *found))
            calls.append(_Call(kernel, args, tuple(patches), returned))

        def place(tensor: Tensor) -> Place:
            slot, offset = find(tensor.data_ptr()) or (count, 0)
            shape, stride = tuple(tensor.shape), tensor.stride()
            return Place(slot, offset, shape, stride, tensor.dtype, slot == count)

        places = tuple(map(place, outputs))
        if any(p.slot != count + 1 + i for i, p in enumerate(places)):
            return None
        draws = tuple(draw for _, draw in self._seeds)
        return Program(tuple(calls), count, size, places, draws), place


class _Watched:
    """The extension, with every call of a kernel written down."""

    def __init__(self, module: Any, calls: list[tuple[Callable, tuple, Any]]) -> None:
        self._module, self._calls = module, calls

    def __getattr__(self, name: str) -> Callable:
        kernel = getattr(self._module, name)

        def call(*args):
            returned = kernel(*args)
            self._calls.append((kernel, args, returned))
            return returned

        return call


def _span(tensor: Tensor | Place) -> int:
    """Bytes from the first element to behind the last."""
    shape, stride = tensor.shape, tensor.stride if isinstance(tensor, Place) else tensor.stride()
    if 0 in shape:
        return 0
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return (last + 1) * tensor.dtype.itemsize
