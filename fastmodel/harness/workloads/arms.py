"""The arms: ways of training one workload that differ only in what fastmodel replaces.

Model, loss and optimizer come from the workload; an arm chooses the memory layout, PyTorch's own
fused optimizer, or fastmodel's parts. `Loop.step` is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

import fastmodel as fm
from fastmodel.errors import InputError
from fastmodel.harness.workloads.protocol import Optimizer, Options, Split, Workload

# PyTorch's optimizers that take fused=True on the CPU as well as on CUDA.
_HAS_FUSED = ("Adam", "AdamW", "SGD", "Adagrad")


@dataclass
class Loop:
    """A model in training, with the data in the layout that its arm wants."""

    model: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    memory_format: torch.memory_format
    device: str

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One training step; returns the loss, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def place(self, split: Split) -> Split:
        """`split` on this loop's device, in its layout."""
        return split.to(self.device, self.memory_format)


@dataclass(frozen=True)
class Arm:
    """A named way of building a `Loop`; `build` seeds PyTorch, so every build starts alike."""

    name: str
    description: str
    is_optimized: bool
    build: Callable[[Workload, Options], Loop]
    is_isolated: bool = False
    """Runs in a process of its own: it may crash the one that it runs in."""


def default_arms(workload: Workload, with_compile: bool = False) -> list[Arm]:
    """The baselines in their best honest forms, and fastmodel.

    `channels_last` appears where samples are images, `eager-fused` where PyTorch's optimizer has it,
    `compile` where it is asked for: it costs half a minute and a C++ compiler.
    """
    spec = workload.optimizer()
    has_fused = spec.name in _HAS_FUSED
    arms = [Arm("eager", f"PyTorch eager, {spec.name} default", False, _build_eager)]
    if has_fused:
        description = f"PyTorch eager, {spec.name}(fused=True)"
        arms.append(Arm("eager-fused", description, False, _build_eager_fused))
    if workload.train.inputs.dim() == 4:
        suffix = "(fused=True)" if has_fused else ""
        description = f"PyTorch eager, channels_last, {spec.name}{suffix}"
        arms.append(Arm("channels_last", description, False, _build_channels_last))
    if with_compile:
        description = "torch.compile, otherwise the best of the eager forms"
        arms.append(Arm("compile", description, False, _build_compiled, is_isolated=True))
    arms.append(
        Arm("fastmodel", "fm.optimize, fm.nn.CrossEntropyLoss, fm.optim", True, _build_fastmodel)
    )
    return arms


def torch_optimizer(
    spec: Optimizer, parameters: Iterable[nn.Parameter], fused: bool = False
) -> torch.optim.Optimizer:
    """PyTorch's optimizer of that name.

    Raises:
        InputError: torch.optim has none of that name.
    """
    kind = getattr(torch.optim, spec.name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise InputError(f"optimizer {spec.name!r} is not in torch.optim; name one that is")
    options = dict(spec.options)
    if fused and spec.name in _HAS_FUSED:
        options["fused"] = True
    return kind(parameters, **options)


def _build_eager(workload: Workload, options: Options) -> Loop:
    return _build(workload, options, torch.contiguous_format, fused=False)


def _build_eager_fused(workload: Workload, options: Options) -> Loop:
    return _build(workload, options, torch.contiguous_format, fused=True)


def _build_channels_last(workload: Workload, options: Options) -> Loop:
    return _build(workload, options, torch.channels_last, fused=True)


def _build_compiled(workload: Workload, options: Options) -> Loop:
    is_image = workload.train.inputs.dim() == 4
    memory_format = torch.channels_last if is_image else torch.contiguous_format
    loop = _build(workload, options, memory_format, fused=True)
    # Not in place: nn.Sequential.compile() compiles nothing, in PyTorch 2.13.
    loop.model = torch.compile(loop.model, dynamic=False)  # type: ignore[assignment]
    return loop


def _build(
    workload: Workload, options: Options, memory_format: torch.memory_format, fused: bool
) -> Loop:
    torch.manual_seed(options.seed)
    model = workload.model().to(torch.device(options.device))
    model.to(memory_format=memory_format)  # type: ignore[call-overload]  # in no stub
    optimizer = torch_optimizer(workload.optimizer(), model.parameters(), fused)
    return Loop(model, workload.loss().to(options.device), optimizer, memory_format, options.device)


def _build_fastmodel(workload: Workload, options: Options) -> Loop:
    torch.manual_seed(options.seed)
    plain = workload.model().to(options.device)
    examples = workload.train.head(options.batch_size).to(options.device, torch.contiguous_format)
    gpus = [torch.device(options.device)] if options.device != "cpu" else []
    with torch.random.fork_rng(gpus):  # trials must not move the generator that dropout uses
        model = fm.optimize(plain, (examples.inputs,), select="static")
    spec = workload.optimizer()
    kind = getattr(fm.optim, spec.name, None)
    optimizer = (
        kind(model.parameters(), **spec.options)
        if kind is not None
        else torch_optimizer(spec, model.parameters(), fused=True)
    )
    return Loop(
        model,
        _fastmodel_loss(workload.loss()).to(options.device),
        optimizer,
        torch.contiguous_format,
        options.device,
    )


def _fastmodel_loss(loss: nn.Module) -> nn.Module:
    """fastmodel's cross-entropy in place of PyTorch's; any other loss stays as it is."""
    if type(loss) is not nn.CrossEntropyLoss:
        return loss
    return fm.nn.CrossEntropyLoss(
        weight=loss.weight,
        ignore_index=loss.ignore_index,
        reduction=loss.reduction,
        label_smoothing=loss.label_smoothing,
    )
