"""An optimizer under test, and what its checks share: parameters, gradients, bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LR = 0.05


@dataclass(frozen=True)
class OptimizerUnderTest:
    """One optimizer as the tests see it."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    full: dict[str, Any]
    """Options that give a state of every entry."""

    def __str__(self) -> str:
        return self.ours.__name__

    def plain(self, params, **options):
        """PyTorch's for-loop implementation."""
        return self.theirs(params, foreach=False, **{"lr": LR, **options})

    def make(self, params, **options):
        """Ours."""
        return self.ours(params, **{"lr": LR, **options})


def randn(seed: int, *shape: int, dtype=torch.float32) -> Tensor:
    """The same values on every device, on the default one."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return values.to(torch.get_default_device(), dtype)


def parameters(*shapes: tuple[int, ...], dtype=torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(randn(i, *shape, dtype=dtype)) for i, shape in enumerate(shapes)]


def here(params: list[nn.Parameter], grads: list[Tensor]) -> tuple[list, list]:
    """A case's parameters and gradients on the default device."""
    device = torch.get_default_device()
    return [nn.Parameter(p.detach().to(device)) for p in params], [g.to(device) for g in grads]


def twins_of(params: list[nn.Parameter], dtype: torch.dtype | None = None) -> list[nn.Parameter]:
    """The same values in memory of their own, strides kept."""
    return [nn.Parameter(p.detach().clone().to(dtype or p.dtype)) for p in params]


def give_grads(step: int, *models: list[nn.Parameter]) -> None:
    """The same new gradients, of unit scale, for every list of parameters."""
    for i, params in enumerate(zip(*models, strict=True)):
        values = randn(1000 * (step + 1) + i, *params[0].shape).to(params[0].dtype)
        for param in params:
            param.grad = values.to(param.dtype, copy=True)


def random_state(optimizer, step: int) -> None:
    """Replace every state entry by values as a long run may leave them."""
    for i, state in enumerate(optimizer.state.values()):
        for j, (key, entry) in enumerate(sorted(state.items())):
            if key == "step":
                entry.fill_(step)
            else:
                values = randn(100 + 10 * i + j, *entry.shape).to(entry.dtype)
                # Away from 0, where low precision has no relative accuracy left.
                entry.copy_(values.square() + 0.25 if "sq" in key else values)


def assert_near(found, expected, dtype, roundings: float, what: str) -> None:
    """found equals the float64 expectation, both of about unit scale, to `roundings` roundings of dtype.

    One rounding is for a kernel that computes in float32: its intermediates add float32's few.
    """
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(),
        expected.double(),
        rtol=roundings * eps / 2,
        atol=16 * torch.finfo(torch.float32).eps if roundings < 2 else roundings * eps / 2,
        msg=lambda m: f"{what}: {m}",
    )


def run_together(optimizers, models, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        give_grads(step, *models)
        for optimizer in optimizers:
            optimizer.step()


def assert_together(params, twins, steps: int, dtype=torch.float32) -> None:
    """After `steps` steps of size about LR: each adds a rounding of the parameter and few of the update."""
    eps = torch.finfo(dtype).eps
    for i, (p, q) in enumerate(zip(params, twins, strict=True)):
        scale = max(1.0, q.detach().abs().max().item() if q.numel() else 1.0)
        torch.testing.assert_close(
            p.detach().double(),
            q.detach().double(),
            rtol=0,
            atol=4 * steps * eps * scale,
            equal_nan=True,
            msg=lambda m, i=i: f"parameter {i}: {m}",
        )


# Layouts: each makes (parameter, gradient) from values of shape (4, 3, 5, 2), and may give the buffer whose
# other elements must not change.
SHAPE = (4, 3, 5, 2)


def channels_last(values: Tensor) -> Tensor:
    return values.to(memory_format=torch.channels_last)
