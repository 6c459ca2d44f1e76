"""Graphs of device work: recorded once, launched again as one.

`CudaGraph` is the one there is; what captures steps (capture.py) asks for no more than `Graph`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class Graph(Protocol):
    """Work that can be recorded and launched again, on the same memory."""

    def warm(self, run: Callable[[], T]) -> T:
        """Run as `capture` would, but for real."""
        ...

    def capture(self, run: Callable[[], T]) -> T:
        """Record the work that `run` gives to the device; none of it is done yet.

        Returns:
            What `run` returned: tensors that `replay` will write.

        Raises:
            RuntimeError: it cannot be recorded. Later work is not affected.
        """
        ...

    def replay(self) -> None:
        """Do the recorded work once more."""
        ...


class CudaGraph:
    """A CUDA graph on a stream of its own, with memory of its own.

    Source: PyTorch's notes on CUDA graphs (warm-up on a side stream, gradients None before the capture).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream(device)

    def warm(self, run: Callable[[], T]) -> T:
        """Run on the capture's stream: libraries keep their workspaces by stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = run()
        current.wait_stream(self._stream)
        return result

    def capture(self, run: Callable[[], T]) -> T:
        """Record `run` as one graph."""
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        generator = torch.cuda.default_generators[index]
        before, stream = generator.clone_state(), torch.cuda.current_stream(self._device)
        try:
            # A loader's thread that pins memory meanwhile is none of the capture's business.
            with torch.cuda.graph(
                self._graph, stream=self._stream, capture_error_mode="thread_local"
            ):
                return run()
        except RuntimeError:
            # A capture that breaks off leaves its stream current, and the generator in a state of capture.
            torch.cuda.set_stream(stream)
            generator.graphsafe_set_state(before)
            raise

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()
