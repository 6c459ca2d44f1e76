"""A training state to come back to, so that windows of one arm do the same work.

How long a step takes depends on the weights: as training goes on, more of a ReLU's outputs are dead, and a
kernel that skips zeros gets faster. Windows of a loop that keeps training would therefore drift, and two runs
of a different number of windows could not be compared.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from fastmodel.harness.workloads.arms import Loop


class Rewind:
    """The weights, buffers, optimizer and schedule of a loop as they were when this was made.

    It takes as much memory again as these. Random generators and the stream of batches go on.
    """

    def __init__(self, loop: Loop) -> None:
        model = loop.model
        self._tensors = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
        self._values: list[tuple[dict[str, Any], str, Any]] = []
        self._schedule = loop.schedule
        if loop.schedule is not None:
            self._values += [(group, "lr", group["lr"]) for group in loop.optimizer.param_groups]
            self._scheduled = copy.deepcopy(loop.schedule.state_dict())
        for state in loop.optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    self._tensors.append((value, value.detach().clone()))
                else:
                    self._values.append((state, key, copy.deepcopy(value)))

    @torch.no_grad()
    def back(self) -> None:
        """Write them back, into the very tensors that the loop holds."""
        for tensor, kept in self._tensors:
            tensor.copy_(kept)
        for state, key, kept in self._values:
            state[key] = copy.deepcopy(kept)
        if self._schedule is not None:
            self._schedule.load_state_dict(copy.deepcopy(self._scheduled))
