"""A graph of CPU work that behaves as a CUDA graph does: what fm.capture_step is tested over without a GPU.

Captured are PyTorch's ops as its dispatcher sees them, each with the very tensors and numbers it got, and the
launches of the optimizers' CUDA kernels where those are emulated. A capture changes nothing; a replay runs
the work again and writes results where the first run's lie. So numbers that Python held are frozen, memory
is read and written where it lay, and random ops draw anew: as on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fastmodel import env


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        leaves = pytree.tree_leaves((args, kwargs))
        for leaf in leaves:
            # As it was before the capture, for all that may be written.
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result


class _Launches:
    """The kernels' extension, whose launches are recorded and not done, as under a real capture."""

    def __init__(self, module: Any, calls: list[tuple[Any, tuple, dict, Any]]) -> None:
        self._module, self._calls = module, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not name.endswith("_cuda") or name.endswith("_parts_cuda"):
            return found  # a question to the host

        def launch(*args, **kwargs) -> None:
            self._calls.append((found, args, kwargs, None))

        return launch


class RecordedGraph:
    """Stands for `fastmodel.graphs.CudaGraph`."""

    made: int = 0
    """Captures, over all of them."""

    def __init__(self) -> None:
        self.warmed = 0
        self._recorder: _Recorder | None = None

    def warm(self, run: Callable[[], Any]) -> Any:
        self.warmed += 1
        return run()

    def capture(self, run: Callable[[], Any]) -> Any:
        assert self._recorder is None, "a graph is captured once"
        generator = torch.get_rng_state()
        self._recorder = recorder = _Recorder()
        extension = env.cuda
        try:
            with (
                mock.patch.object(env, "cuda", lambda: _Launches(extension(), recorder.calls)),
                recorder,
            ):
                result = run()
        finally:
            for storage, kept in recorder.before.values():
                storage.copy_(kept)
            torch.set_rng_state(generator)
        RecordedGraph.made += 1
        return result

    @property
    def names(self) -> list[str]:
        """What was captured, in its order: "aten.mul.Tensor", "adam_step_cuda"."""
        return [
            str(func) if isinstance(func, torch._ops.OpOverload) else func.__name__
            for func, *_ in self._recorder.calls
        ]

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self._recorder.calls:
            found = func(*args, **kwargs)
            for old, new in zip(pytree.tree_leaves(result), pytree.tree_leaves(found), strict=True):
                # Views and in-place ops have written there already.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
