"""Lists of tensors as one Triton launch takes them: a table of addresses, and chunks that programs work on.

Every tensor of a row (a parameter, its gradient, its state) has one dense layout, so that a kernel runs over
memory; stand-ins are made for those that differ. Addresses are read anew in every step; the chunks hang on
the sizes alone and stay.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.batch import Batch, options_refusal
from fastmodel.ops.tensor_table import Staging, is_expanded

CHUNK, BLOCK = 4096, 1024
"""Elements of one program, and those that it holds at a time: 8 a thread, so that registers leave room for
as many threads as hide the memory's latency."""

_ENTRIES = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
"""Of the states that the kernels step."""
_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refusal(lead: Tensor, batches: Sequence[Batch]) -> str | None:
    """Why the kernel does not take these batches; None if it does."""
    if lead.is_cuda and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph would replay the addresses and step counts of this one step"
    for batch in batches:
        found = options_refusal(batch.group)
        states = batch.states or [{}] * len(batch.params)
        rows = zip(batch.params, batch.grads, states, strict=True)
        for param, grad, state in rows if found is None else ():
            found = found or _row_refusal(param, grad, state, batch.state_dtype)
        if found is not None:
            return found
    return None


def _row_refusal(
    param: Tensor, grad: Tensor, state: dict[str, Any], state_dtype: torch.dtype | None
) -> str | None:
    unknown = state.keys() - _ENTRIES
    if unknown:
        return f"a state holds {', '.join(sorted(unknown))}"
    entries = [entry for key, entry in state.items() if key != "step" and entry is not None]
    for tensor in (param, grad, *entries):
        if type(tensor) not in _PLAIN_TYPES:
            return f"a tensor is a {type(tensor).__name__}"
        if tensor.layout != torch.strided or tensor.dtype not in _DTYPES or tensor.is_neg():
            return f"a tensor is {tensor.dtype}, {tensor.layout}, or a lazy negation".replace(
                "torch.", ""
            )
        dtype = state_dtype if any(tensor is entry for entry in entries) else None
        if (tensor.dtype, tensor.shape, tensor.device) != (
            dtype or param.dtype,
            param.shape,
            param.device,
        ):
            return "a gradient or state differs from its parameter in dtype, shape or device"
    if any(map(is_expanded, (param, *entries))):
        return "elements of a parameter or its state share memory"
    step = state.get("step")
    if step is not None and (type(step), step.dtype, step.numel()) != (Tensor, torch.float32, 1):
        return "a step count is no float32 tensor of one element"
    return None


def uniform(batches: Sequence[Batch]) -> Iterator[Batch]:
    """The batches, parted by device and dtype."""
    for batch in batches:
        kinds = defaultdict(list)
        for i, param in enumerate(batch.params):
            kinds[param.device, param.dtype].append(i)
        for places in kinds.values():
            yield replace(
                batch,
                params=_at(places, batch.params),
                grads=_at(places, batch.grads),
                states=_at(places, batch.states),
                ordinals=_at(places, batch.ordinals),
            )


def _at(places: list[int], values: list) -> list:
    return [values[i] for i in places] if values else []


class TensorList:
    """Rows of tensors on one device, and how to launch over them.

    Args:
        columns: parameters, gradients, and each entry of the state.
        writes_grads: does the kernel write the gradients, too?
    """

    def __init__(self, columns: Sequence[list[Tensor]], writes_grads: bool) -> None:
        self._staging = Staging()
        self._rows = self._staging.flat_rows(columns)
        self._written_grads = [
            (grad, row[1])
            for grad, row in zip(columns[1], self._rows, strict=True)
            if writes_grads and row[1] is not grad and not is_expanded(grad)
        ]
        self.device = columns[0][0].device
        addresses = [
            [tensor.data_ptr() for tensor in column] for column in zip(*self._rows, strict=True)
        ]
        self.addresses = on_its_way(torch.tensor(addresses, dtype=torch.int64), self.device)
        self.is_aligned = all(address % 16 == 0 for column in addresses for address in column)
        sizes = tuple(row[0].numel() for row in self._rows)
        self.sizes, self.tensors, self.chunks = _chunks(sizes, self.device)

    def launch(self, kernel: Any, *args, **constants) -> None:
        """kernel(addresses, sizes, tensors, chunks, count, ...), one program a chunk."""
        count = len(self._rows)
        programs = self.chunks.numel()
        if programs:
            kernel[(programs,)](
                self.addresses,
                self.sizes,
                self.tensors,
                self.chunks,
                count,
                *args,
                IS_ALIGNED=self.is_aligned,
                CHUNK=CHUNK,
                BLOCK=BLOCK,
                num_warps=4,
                **constants,
            )
        self._staging.write_back()
        for grad, stand_in in self._written_grads:
            grad.copy_(stand_in)


def on_its_way(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on the way to a device, without waiting for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@functools.lru_cache(maxsize=64)
def _chunks(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The sizes; and for each chunk its tensor, and which of the tensor's chunks it is."""
    counts = torch.tensor([triton.cdiv(size, CHUNK) for size in sizes], dtype=torch.int64)
    tensors = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    chunks = torch.arange(len(tensors)) - first
    found = torch.tensor(sizes, dtype=torch.int64), tensors.int(), chunks.int()
    size, tensor, chunk = (on_its_way(each, device) for each in found)
    return size, tensor, chunk


@triton.jit
def chunk_of_program(sizes, tensors, chunks, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """This program's tensor; and of the elements that are its own the first, the end of those in whole
    blocks, which need no mask and so are moved 16 bytes at a time, and the end."""
    program = tl.program_id(0)
    tensor = tl.load(tensors + program)
    first = tl.load(chunks + program).to(tl.int64) * CHUNK
    end = tl.minimum(first + CHUNK, tl.load(sizes + tensor))
    return tensor, first, first + (end - first) // BLOCK * BLOCK, end


@triton.jit
def pointer_to(addresses, column, count, tensor, like, IS_ALIGNED: tl.constexpr):
    """The tensor's entry of a column of the table, as a pointer of the type of `like`."""
    pointer = tl.load(addresses + column * count + tensor).to(like.dtype)
    if IS_ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer
