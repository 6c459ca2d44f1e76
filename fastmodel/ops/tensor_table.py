"""Tensors as the optimizer kernels take them: flat memory of one layout, dtype and device.

A kernel runs over memory, so a parameter, its gradient and its state must have one dense layout. `read_group`
looks at a whole parameter group, `read` at lists of tensors, and both say whether they have; `refusal` says
why one parameter's tensors never can be taken; `Staging` makes flat stand-ins for tensors whose layouts
merely differ.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.native import DTYPE_CODES, GPU_DTYPE_CODES

Table: TypeAlias = Any
"""fastmodel._C.TensorTable: addresses and sizes, good for the step it was read in and no longer."""

_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_EXCHANGE_API = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)


@functools.cache
def _reader() -> Any:
    sample = torch.empty(1)
    return native().TensorReader(
        _EXCHANGE_API,
        _PLAIN_TYPES,
        torch.Tensor.is_neg,
        sample,
        sample._cdata,
        sample.untyped_storage()._cdata,
    )


def _code(dtype: torch.dtype | None) -> int | None:
    return None if dtype is None else GPU_DTYPE_CODES[dtype]


def read_group(
    params: list[Tensor],
    states: Mapping[Tensor, dict[str, Any]],
    keys: tuple[str, ...],
    has_steps: bool,
    first_ordinal: int,
    state_dtype: torch.dtype | None,
    is_for_gpu: bool,
) -> tuple[Table, list[Tensor], list[Tensor], list[dict[str, Any]], list[int]] | None:
    """The table of a group's parameters that have a gradient, in one walk of native code.

    Args:
        params: the group's.
        states: of all parameters, as the optimizer holds them; left alone where there are no keys.
        keys: the entries of a state that are shaped like the parameter.
        has_steps: does each state hold a step count, too?
        first_ordinal: place of the group's first parameter among all of the optimizer.
        state_dtype: of the entries; None for the parameter's own.
        is_for_gpu: do the kernels for GPUs, or their emulation, take the table?

    Returns:
        The table and the parameters, gradients, states and ordinals that it holds. None if a state or entry
        is missing, or unless every row is flat as it stands, see `read`.
    """
    if _EXCHANGE_API is None:
        return None
    return _reader().read_group(
        params, states, keys, has_steps, first_ordinal, _code(state_dtype), is_for_gpu
    )


def read(
    columns: Sequence[list],
    steps: list[Tensor],
    ordinals: Sequence[int],
    state_dtype: torch.dtype | None,
    is_for_gpu: bool,
) -> Table | None:
    """The table of these tensors: columns params, grads and state entries, and the step counts.

    Returns:
        None unless every row is flat as it stands: plain tensors on one device, of one dtype that kernels
        take over all rows (state entries of state_dtype, if given), of the layout of their parameter, which
        is dense; step counts float32 on the CPU, or all on that device.
    """
    if _EXCHANGE_API is None:
        return _read_by_methods(columns, steps, ordinals, state_dtype, is_for_gpu)
    return _reader().read_columns(columns, steps, ordinals, _code(state_dtype), is_for_gpu)


def _read_by_methods(
    columns: Sequence[list],
    steps: list[Tensor],
    ordinals: Sequence[int],
    state_dtype: torch.dtype | None,
    is_for_gpu: bool,
) -> Table | None:
    """`read` for a PyTorch without DLPack's exchange API (before 2.10): slower, tensor by tensor."""
    for i, row in enumerate(zip(*columns, strict=True)):
        step = steps[i] if steps else None
        is_flat = (
            all(entry is not None for entry in row)
            and (row[0].dtype, row[0].device) == (columns[0][0].dtype, columns[0][0].device)
            and refusal(row[0], row[1], row[2:], step, state_dtype, is_for_gpu) is None
            and (step is None or step.device == steps[0].device)
            and _is_dense(row[0])
            and strides_agree(row)
        )
        if not is_flat:
            return None
    return native().tensor_table_of_addresses(
        [list(map(Tensor.data_ptr, column)) for column in columns],
        list(map(Tensor.data_ptr, steps)),
        list(map(Tensor.numel, columns[0])),
        ordinals,
        _code(columns[0][0].dtype),
        _code(state_dtype),
        not steps or steps[0].is_cpu,
    )


def refusal(
    param: Tensor,
    grad: Tensor,
    entries: Sequence[Tensor | None],
    step: Tensor | None,
    state_dtype: torch.dtype | None,
    is_for_gpu: bool,
) -> str | None:
    """Why native kernels do not take these tensors of one parameter, whatever their strides; None if they do.

    Args:
        param: the parameter.
        grad: its gradient.
        entries: its state's tensors; None for one that the step is to make.
        step: its step count, if it has one.
        state_dtype: of the entries; None for the parameter's own.
        is_for_gpu: do the kernels for GPUs, or their emulation, take them?
    """
    dtypes = GPU_DTYPE_CODES if is_for_gpu else DTYPE_CODES
    written = [param, *(entry for entry in entries if entry is not None)]
    for tensor in (grad, *written):
        if type(tensor) not in _PLAIN_TYPES:
            return f"a tensor is a {type(tensor).__name__}"
        is_there = tensor.device == param.device if is_for_gpu else tensor.is_cpu
        if tensor.layout != torch.strided or not is_there or tensor.dtype not in dtypes:
            return f"a tensor is {tensor.dtype}, {tensor.layout}, on {tensor.device}".replace(
                "torch.", ""
            )
        if tensor.is_neg():
            return "a tensor is a lazy negation"
        is_entry = tensor is not grad and tensor is not param
        dtype = (is_entry and state_dtype) or param.dtype
        if (tensor.dtype, tensor.shape) != (dtype, param.shape):
            return "a gradient or state differs from its parameter in dtype or shape"
    if any(map(is_expanded, written)):
        return "elements of a parameter or its state share memory"
    if step is not None and (
        type(step) not in _PLAIN_TYPES
        or (step.dtype, step.numel()) != (torch.float32, 1)
        or not (step.is_cpu or (is_for_gpu and step.device == param.device))
    ):
        return "a step count is no float32 tensor on the CPU or the parameter's device"
    return None


def strides_agree(tensors: Sequence[Tensor]) -> bool:
    """Do equal offsets mean equal elements? Dimensions of size 1 do not count."""
    lead = _walk(tensors[0])
    return all(_walk(tensor) == lead for tensor in tensors[1:])


def is_expanded(tensor: Tensor) -> bool:
    """Do several indices reach one element?"""
    return any(stride == 0 for stride, _ in _walk(tensor))


def _walk(tensor: Tensor) -> list[tuple[int, int]]:
    """(stride, size) of every dimension that strides over something."""
    if tensor.numel() == 0:
        return []
    return [(st, sz) for st, sz in zip(tensor.stride(), tensor.shape, strict=True) if sz != 1]


def _is_dense(tensor: Tensor) -> bool:
    expected = 1
    for stride, size in sorted(_walk(tensor)):
        if stride != expected:
            return False
        expected *= size
    return True


class Staging:
    """Flat stand-ins for tensors whose layouts differ, and the way back.

    Where layouts differ (a channels_last parameter with a contiguous gradient, a strided view, a state
    resumed from another layout), copies in the parameter's layout stand in.
    """

    def __init__(self, writes_grads: bool = False) -> None:
        """
        Args:
            writes_grads: does the kernel write the gradients, too?
        """
        self._writes_grads = writes_grads
        self._written: list[tuple[Tensor, Tensor]] = []

    def read(
        self,
        columns: Sequence[list[Tensor]],
        steps: list[Tensor],
        ordinals: Sequence[int],
        state_dtype: torch.dtype | None,
        is_for_gpu: bool = False,
    ) -> Table:
        """The table of these tensors or their stand-ins; none of them is refused."""
        rows = self.flat_rows(columns)
        table = read(
            list(map(list, zip(*rows, strict=True))), steps, ordinals, state_dtype, is_for_gpu
        )
        assert table is not None
        return table

    def flat_rows(self, columns: Sequence[list[Tensor]]) -> list[tuple[Tensor, ...]]:
        """The rows of these tensors or their stand-ins, which live as long as this."""
        self._alive = [self._flat(*row) for row in zip(*columns, strict=True)]
        return self._alive

    def write_back(self) -> None:
        """Copy what the kernel wrote into the tensors that were stood in for."""
        for tensor, copy in self._written:
            tensor.copy_(copy)

    def _flat(self, param: Tensor, grad: Tensor, *entries: Tensor) -> tuple[Tensor, ...]:
        like = param if _is_dense(param) else torch.empty(param.shape, device="meta")
        written = [self._stand_in(tensor, like) for tensor in (param, *entries)]
        for tensor, copy in zip((param, *entries), written, strict=True):
            if copy is not tensor:
                self._written.append((tensor, copy))
        staged = self._stand_in(grad, like)
        if self._writes_grads and staged is not grad and not is_expanded(grad):
            self._written.append((grad, staged))
        return (written[0], staged, *written[1:])

    def _stand_in(self, tensor: Tensor, like: Tensor) -> Tensor:
        if strides_agree((like, tensor)):
            return tensor
        return tensor.new_empty_strided(tensor.shape, like.stride()).copy_(tensor)
