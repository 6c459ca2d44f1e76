"""The arms: ways of training one workload that differ only in what fastmodel replaces.

Model, loss and optimizer come from the workload; an arm chooses the memory layout, PyTorch's own
fused optimizer, or fastmodel's parts. `Loop.step` is the same for all of them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

import fastmodel as fm
from fastmodel import capture
from fastmodel.errors import InputError
from fastmodel.harness.workloads.protocol import Optimizer, Options, Split, Workload
from fastmodel.harness.workloads.recipe import Recipe, Schedule, recipe_of

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
    recipe: Recipe = field(default_factory=Recipe)
    clips: bool = True
    """Does the loop clip gradients where its recipe wants it? False where the optimizer's step does."""
    class_dim: int = 1
    """Of the outputs."""
    recomputes: bool = False
    """Is forward run under `fm.recompute_activations`?"""

    def __post_init__(self) -> None:
        self.schedule: Schedule | None = self.recipe.schedule(self.optimizer)
        self._train: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = self._eager

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """One training step; returns the loss, detached."""
        loss = self._train(inputs, targets)
        self._follow_schedule()
        return loss

    def _eager(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(inputs, targets)
        self._update()
        return loss

    def _backward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Leave the gradients of the batch's loss, the mean over its samples; returns that loss."""
        if self.recipe.accumulation == 1:
            loss = self.forward(inputs, targets)[1]
            loss.backward()
            return loss.detach()
        total = torch.zeros((), device=inputs.device)
        parts = self.recipe.accumulation
        for part in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            loss = self.forward(*part)[1] * (len(part[0]) / len(inputs))
            loss.backward()
            total += loss.detach()
        return total

    def forward(
        self, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and their loss, under what the recipe and the arm say."""
        region = fm.recompute_activations() if self.recomputes else contextlib.nullcontext()
        autocast = capture.autocast_to(torch.device(self.device).type, self.recipe.autocast)
        with region, autocast:
            outputs = self.model(inputs)
            return outputs, self.loss(outputs, targets)

    def apply_gradients(self) -> None:
        """What a step does once the gradients are there."""
        self._update()
        self._follow_schedule()

    def _update(self) -> None:
        if self.clips and self.recipe.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()

    def _follow_schedule(self) -> None:
        if self.schedule is not None:
            self.schedule.step()

    def replay(self, batch: Split) -> None:
        """Train by replaying one CUDA graph from now on, where a step can be captured; `batch` is a full one.

        The schedule is no part of it: it runs on the host, and the graph reads the rates that it sets.
        """
        example = self.place(batch)
        self._train = capture.captured(
            self._eager,
            self.model,
            self.optimizer,
            (example.inputs, example.targets),
            capture.refusal_of(self.model, self.optimizer),
        )

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


# torch.compile's modes on CUDA beside the default: CUDA graphs of the model, and kernels chosen by trial too.
_COMPILE_MODES = ("reduce-overhead", "max-autotune")


def default_arms(
    workload: Workload,
    with_compile: bool = False,
    device: str = "cpu",
    recomputes: bool = False,
) -> list[Arm]:
    """The baselines in their best honest forms, and fastmodel.

    `channels_last` appears where samples are images, `eager-fused` where PyTorch's optimizer has it,
    `compile` where it is asked for: it costs half a minute and a C++ compiler. On CUDA PyTorch's best eager
    form is also captured whole as a CUDA graph, as fastmodel's arm is, and torch.compile has its other modes.
    """
    is_cuda = torch.device(device).type == "cuda"
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
    if is_cuda:
        description = "PyTorch's best eager form, the whole step as one CUDA graph"
        arms.append(Arm("cuda-graph", description, False, _build_graphed))
    if with_compile:
        description = "torch.compile, otherwise the best of the eager forms"
        arms.append(Arm("compile", description, False, _build_compiled, is_isolated=True))
        for mode in _COMPILE_MODES if is_cuda else ():
            build = functools.partial(_build_compiled, mode=mode)
            name, description = f"compile-{mode}", f"torch.compile(mode={mode!r}), likewise"
            arms.append(Arm(name, description, False, build, is_isolated=True))
    description = "fm.optimize, fm.nn.CrossEntropyLoss, fm.optim"
    if recomputes:
        description += ", fm.recompute_activations"
    if is_cuda:
        description += ", fm.capture_step"
    arms.append(Arm("fastmodel", description, True, _build_fastmodel))
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


def _best_format(workload: Workload) -> torch.memory_format:
    is_image = workload.train.inputs.dim() == 4
    return torch.channels_last if is_image else torch.contiguous_format


def _build_graphed(workload: Workload, options: Options) -> Loop:
    loop = _build(workload, options, _best_format(workload), fused=True)
    loop.replay(workload.train.head(options.batch_size))
    return loop


def _build_compiled(workload: Workload, options: Options, mode: str | None = None) -> Loop:
    loop = _build(workload, options, _best_format(workload), fused=True)
    # Not in place: nn.Sequential.compile() compiles nothing, in PyTorch 2.13.
    loop.model = torch.compile(loop.model, dynamic=False, mode=mode)  # type: ignore[assignment]
    return loop


def _build(
    workload: Workload, options: Options, memory_format: torch.memory_format, fused: bool
) -> Loop:
    torch.manual_seed(options.seed)
    model = workload.model().to(torch.device(options.device))
    model.to(memory_format=memory_format)  # type: ignore[call-overload]  # in no stub
    return torch_loop(workload, options, model, workload.loss(), memory_format, fused)


def torch_loop(
    workload: Workload,
    options: Options,
    model: nn.Module,
    loss: nn.Module,
    memory_format: torch.memory_format = torch.contiguous_format,
    fused: bool = False,
) -> Loop:
    """A loop over this model and loss with PyTorch's optimizer."""
    return Loop(
        model,
        loss.to(options.device),
        torch_optimizer(workload.optimizer(), model.parameters(), fused),
        memory_format,
        options.device,
        recipe_of(workload, options),
        class_dim=class_dim(workload),
    )


def class_dim(workload: Workload) -> int:
    """The dimension of the outputs that is over classes: 1, as in PyTorch's losses, or the workload's own."""
    return getattr(workload, "class_dim", 1)


def _build_fastmodel(workload: Workload, options: Options) -> Loop:
    torch.manual_seed(options.seed)
    plain = workload.model().to(options.device)
    examples = workload.train.head(options.batch_size).to(options.device, torch.contiguous_format)
    gpus = [torch.device(options.device)] if options.device != "cpu" else []
    with torch.random.fork_rng(gpus):  # trials must not move the generator that dropout uses
        model = fm.optimize(plain, (examples.inputs,), select="static")
    loss = _fastmodel_loss(workload.loss())
    spec, recipe = workload.optimizer(), recipe_of(workload, options)
    kind = getattr(fm.optim, spec.name, None)
    if kind is None:
        loop = torch_loop(workload, options, model, loss, fused=True)
    else:
        clip = {} if recipe.max_grad_norm is None else {"max_grad_norm": recipe.max_grad_norm}
        loop = Loop(
            model,
            loss.to(options.device),
            kind(model.parameters(), **spec.options, **clip),
            torch.contiguous_format,
            options.device,
            recipe,
            clips=False,
            class_dim=class_dim(workload),
        )
    loop.recomputes = options.recomputes
    if torch.device(options.device).type == "cuda":
        loop.replay(workload.train.head(options.batch_size))
    return loop


def _fastmodel_loss(loss: nn.Module) -> nn.Module:
    """fastmodel's cross-entropy in place of PyTorch's, in a loss that is made of it too; others stay."""
    if type(loss) is not nn.CrossEntropyLoss:
        inner = {name: _fastmodel_loss(child) for name, child in loss.named_children()}
        if all(child is loss._modules[name] for name, child in inner.items()):
            return loss
        loss = copy.copy(loss)
        loss._modules = dict(inner)
        return loss
    return fm.nn.CrossEntropyLoss(
        weight=loss.weight,
        ignore_index=loss.ignore_index,
        reduction=loss.reduction,
        label_smoothing=loss.label_smoothing,
    )
