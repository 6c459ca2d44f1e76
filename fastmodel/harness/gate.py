"""The correctness gate: the optimized arm against a float64 copy of the plain model, before any time.

From the same weights and batch, these are compared: outputs and loss in evaluation and in training
mode, every parameter's gradient, every floating-point buffer, and the parameters after three
optimizer steps with given gradients. The error of a tensor is its largest absolute difference over the
reference's largest value; it may be

    bound = 4 max(error of the plain model, conditioning) + 4 eps (depth + 1)

where eps is that of the model's dtype, depth its number of leaf modules (each rounds its result at
least once), and conditioning the change of the float64 answer when weights and inputs move by about
2 eps. The last matters because ReLU and max-pool have jumps in their derivatives: near a tie, any
rounding at all may send a gradient elsewhere, in a correct kernel too. Batches are tried until one is
far from ties, so that the bound stays tight.

Dropout is set to p = 0 here: that one seed draws one mask in float32 and float64 alike is promised
nowhere. Training still uses it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fastmodel.harness.records import Gate, GateCheck
from fastmodel.harness.workloads.arms import Arm, Loop, torch_loop
from fastmodel.harness.workloads.protocol import Options, Split, Workload
from fastmodel.nn import LinearReLUDropout

_MAX_BATCH_SIZE = 64  # kernels split their work by it, so it is that of the run where affordable
_MULTIPLE = 4.0
_PERTURBATIONS = 4
_CANDIDATES = 8
_GRADIENT_FACTORS = (1.0, -0.5, 2.0)

Values = dict[str, torch.Tensor]
Forward = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class _Bounds:
    """What the bounds are derived from: unit roundoff times depth, and per tensor conditioning."""

    floor: float
    conditioning: dict[str, float]

    def of(self, name: str, baseline_error: float) -> float:
        return _MULTIPLE * max(baseline_error, self.conditioning.get(name, 0.0)) + self.floor


def check(workload: Workload, options: Options, plain: Arm, optimized: Arm) -> Gate:
    """Compare `optimized` with float64, beside `plain`; nothing is raised, the record says it all."""
    plain_loop = _without_dropout(plain.build(workload, options))
    optimized_loop = _without_dropout(optimized.build(workload, options))
    model, loss = _float64(plain_loop.model), _float64(plain_loop.loss)
    eps = torch.finfo(plain_loop.recipe.autocast or _dtype(plain_loop.model)).eps
    floor = _MULTIPLE * eps * (_depth(plain_loop.model) + 1)

    train = workload.train.to(options.device, torch.contiguous_format)
    batch, conditioning = _well_conditioned_batch(model, loss, train, options, eps, floor)
    bounds = _Bounds(floor, conditioning)

    reference = _values(_call(model, loss), model, _double(batch))
    gradients = {
        name.removeprefix("gradient of "): value
        for name, value in reference.items()
        if name.startswith("gradient of ")
    }
    reference |= _stepped(torch_loop(workload, options, copy.deepcopy(model), loss), gradients)
    by_plain = _values(plain_loop.forward, plain_loop.model, plain_loop.place(batch))
    by_plain |= _stepped(plain_loop, gradients)
    by_optimized = _values(
        optimized_loop.forward, optimized_loop.model, optimized_loop.place(batch)
    )
    by_optimized |= _stepped(optimized_loop, gradients)
    checks = _compare(reference, by_plain, by_optimized, bounds)
    return Gate(all(one.passed for one in checks), checks)


def failures(gate: Gate) -> str:
    """The failed checks in one line."""
    failed = [one for one in gate.checks if not one.passed]
    worst = ", ".join(f"{one.name} off by {one.error} (bound {one.bound})" for one in failed[:3])
    return f"{len(failed)} of {len(gate.checks)} checks failed: {worst}"


def _compare(
    reference: Values, by_plain: Values, by_optimized: Values, bounds: _Bounds
) -> list[GateCheck]:
    checks = []
    for name, expected in reference.items():
        baseline_error = _error(by_plain[name], expected)
        error = _error(by_optimized[name], expected) if name in by_optimized else math.inf
        bound = bounds.of(name, baseline_error)
        passed = error <= bound  # False for NaN on either side
        checks.append(
            GateCheck(name, _finite(error), _finite(baseline_error), _finite(bound), passed)
        )
    unknown = [name for name in by_optimized if name not in reference]
    return checks + [GateCheck(f"unexpected {name}", None, None, None, False) for name in unknown]


def _call(model: nn.Module, loss: nn.Module) -> Forward:
    """A plain forward, of what is not in a loop."""

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = model(inputs)
        return outputs, loss(outputs, targets)

    return forward


def _values(forward: Forward, model: nn.Module, batch: Split) -> Values:
    """Everything that is compared, of one model; the optimizer's part is `_stepped`."""
    values: Values = {}
    with torch.no_grad():
        model.eval()
        outputs, value = forward(batch.inputs, batch.targets)
        values["output, evaluation"] = outputs
        values["loss, evaluation"] = value
    model.train()
    model.zero_grad(set_to_none=True)
    outputs, value = forward(batch.inputs, batch.targets)
    value.backward()
    values["output, training"] = outputs
    values["loss, training"] = value
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            values[f"gradient of {name}"] = parameter.grad
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            values[f"buffer {name}"] = buffer
    return {name: value.detach().clone() for name, value in values.items()}


def _stepped(loop: Loop, gradients: Values) -> Values:
    """Parameters after steps with given gradients, rounded to float32 first so that all see the same.

    Gradients of the arms' own would not do: Adam divides by their size, and so blows up the rounding
    of those near 0.
    """
    parameters = dict(loop.model.named_parameters())
    for factor in _GRADIENT_FACTORS:
        for name, parameter in parameters.items():
            if name in gradients:
                rounded = (gradients[name] * factor).float()
                parameter.grad = torch.empty_like(parameter).copy_(rounded)
        loop.apply_gradients()
    return {
        f"{name} after {len(_GRADIENT_FACTORS)} steps": parameter.detach().clone()
        for name, parameter in parameters.items()
        if name in gradients
    }


def _well_conditioned_batch(
    model: nn.Module, loss: nn.Module, train: Split, options: Options, eps: float, floor: float
) -> tuple[Split, dict[str, float]]:
    """The first batch whose float64 answer moves by less than 4 floors, or else the steadiest."""
    generator = torch.Generator().manual_seed(options.seed)
    order = torch.randperm(len(train), generator=generator)
    best: tuple[float, Split, dict[str, float]] | None = None
    size = min(options.batch_size, _MAX_BATCH_SIZE)
    for index in order.split(size)[:_CANDIDATES]:
        index = index.to(train.inputs.device)
        batch = Split(train.inputs[index], train.targets[index])
        conditioning = _conditioning(model, loss, _double(batch), eps, generator)
        worst = max(conditioning.values())
        if best is None or worst < best[0]:
            best = (worst, batch, conditioning)
        if worst < 4 * floor:
            break
    assert best is not None  # a split holds at least one sample
    return best[1], best[2]


def _conditioning(
    model: nn.Module, loss: nn.Module, batch: Split, eps: float, generator: torch.Generator
) -> dict[str, float]:
    """How far each value moves when weights and inputs are off by about 2 eps."""

    def disturbed(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor * (1 + 2 * eps * noise.to(tensor.device))

    own = copy.deepcopy(model)
    reference = _values(_call(own, loss), own, batch)
    worst = dict.fromkeys(reference, 0.0)
    for _ in range(_PERTURBATIONS):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(disturbed(parameter))
        moved = _values(_call(other, loss), other, Split(disturbed(batch.inputs), batch.targets))
        for name, value in reference.items():
            worst[name] = max(worst[name], _error(moved[name], value))
    return worst


def _error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference over the reference's largest value; infinite for other shapes."""
    if value.shape != reference.shape:
        return math.inf
    if reference.numel() == 0:
        return 0.0
    difference = (value.double() - reference.double()).abs().max().item()
    scale = reference.abs().max().item()
    return difference / scale if scale > 0 else difference


def _without_dropout(loop: Loop) -> Loop:
    for module in loop.model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, LinearReLUDropout)):
            module.p = 0.0
    return loop


def _float64(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).double()


def _double(batch: Split) -> Split:
    def convert(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return Split(convert(batch.inputs), convert(batch.targets))


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _depth(model: nn.Module) -> int:
    return sum(1 for module in model.modules() if not any(module.children()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
