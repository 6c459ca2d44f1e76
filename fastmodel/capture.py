"""`fm.capture_step`: a whole training step, forward to optimizer, replayed as one CUDA graph.

A step of a small model is hundreds of launches of a few microseconds each, and the Python between them takes
longer than they do. Captured, they are one launch on the same memory: the batch is copied into static
buffers, the graph runs, and the loss is copied out.

A graph repeats what was recorded, numbers included. So what may change between steps is either read from
device memory (the learning rates, a GradScaler's scale, PyTorch's random generator) or compared before each
replay, in a few microseconds: the batch's shapes, modes, Parameters, options, the backend that is asked for
and the optimizer's state. Where one differs, the step runs eagerly; where it stays so, it is captured anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastmodel.errors import BackendError, InputError
from fastmodel.graphs import CudaGraph, Graph
from fastmodel.ops import dispatch
from fastmodel.ops.optimizers import FusedStep
from fastmodel.ops.own_state import OWN_OPTIONS

WARM_STEPS = 3
"""Eager steps before a capture: libraries choose their kernels and workspaces in the first ones."""

_SGD_NEEDS = (
    "SGD's foreach step and its for-loop read the learning rate on the host; pass fused=True, or take "
    "fm.optim's"
)


class CapturedStep:
    """A training step as one call, (inputs, targets) to the loss; see `capture_step`.

    Attributes:
        reason: why the last call ran eagerly, and before the first one why all will; None where it was
            replayed, or where nothing is known to stand against it.
        replayed_steps: calls that were served by the graph.
        eager_steps: calls that were not, the warm-up among them.
    """

    def __init__(
        self,
        run: Callable[..., Tensor],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        example_batch: tuple[Any, ...],
        make_graph: Callable[[], Graph] | None,
        refusal: str | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """A step around `run(*batch)`, which zeroes gradients, runs and returns the loss, detached.

        Args:
            run: the eager step.
            model: whose Parameters and modes the step depends on.
            optimizer: what steps them; its groups are made capturable.
            example_batch: as every full batch will be.
            make_graph: gives a new graph; None where no step can be captured.
            refusal: why not.
            scaler: the one that `run` steps the optimizer by.
        """
        self._run, self._optimizer, self._scaler = run, optimizer, scaler
        self._make_graph = make_graph
        self._refusal = refusal
        leaves, self._structure = pytree.tree_flatten(example_batch)
        self._form = [_form_of(leaf) for leaf in leaves]
        self._modules = list(model.modules())
        # A loss may have Parameters of its own, which the optimizer steps too.
        stepped = (param for group in optimizer.param_groups for param in group["params"])
        self._params = list(dict.fromkeys([*model.parameters(), *stepped]))
        self._graph: Graph
        self._signature: tuple = ()
        self._alike, self._is_captured = 0, False
        self.reason = refusal
        self.replayed_steps = self.eager_steps = 0
        if make_graph is not None:
            device = self._params[0].device
            self._static = [_static_like(leaf, device) for leaf in leaves]
            self._rates = _Rates(optimizer, device)

    def __call__(self, *batch: Any) -> Tensor:
        """One training step on this batch; returns the loss, detached, in memory of its own."""
        if self._make_graph is None:
            return self._eagerly(self._refusal, batch)
        leaves, structure = pytree.tree_flatten(batch)
        objection = self._refusal or self._objection(leaves, structure)
        if objection is not None:
            return self._eagerly(objection, self._on_device(leaves, structure))
        signature = self._current_signature()
        if signature != self._signature:
            make_capturable(self._optimizer)  # which a state that was loaded need not be
            self._signature, self._alike, self._is_captured = self._current_signature(), 0, False
            self._held = self._identified()
            self._graph = self._make_graph()
        if not self._is_captured and self._alike < WARM_STEPS:
            return self._warm(leaves, structure)
        self._fill(leaves)
        if not self._is_captured:
            self._is_captured = self._capture()
            if not self._is_captured:
                return self._eagerly(self._refusal, self._on_device(leaves, structure))
        return self._replay()

    def _objection(self, leaves: list[Any], structure: pytree.TreeSpec) -> str | None:
        """Why this call is not one for the graph; None if it is."""
        if torch.is_autocast_enabled(self._params[0].device.type):
            return "autocast around the call keeps casts for itself; pass autocast= to capture_step"
        if structure != self._structure:
            return "the batch has another structure than the example batch"
        for leaf, form in zip(leaves, self._form, strict=True):
            if _form_of(leaf) != form:
                return f"the batch is another: {_in_words(leaf)} instead of {_in_words(form)}"
        return None

    def _current_signature(self) -> tuple:
        """What is built into a graph and may change from outside."""
        groups = self._optimizer.param_groups
        return (
            dispatch.requested(),
            _scaler_options(self._scaler),
            [getattr(self._optimizer, name, None) for name in OWN_OPTIONS],
            id(self._optimizer.state),
            [module.training for module in self._modules],
            [(param.data_ptr(), param.requires_grad) for param in self._params],
            [
                (
                    [id(param) for param in group["params"]],
                    [
                        (key, _comparable(value))
                        for key, value in group.items()
                        if key not in ("params", "lr", "initial_lr")
                    ],
                )
                for group in groups
            ],
        )

    def _identified(self) -> tuple:
        """What a signature knows by its id: held, for another that lies where it lay would pass for it."""
        groups = self._optimizer.param_groups
        return self._optimizer.state, [{**group, "params": [*group["params"]]} for group in groups]

    def _on_device(self, leaves: list[Any], structure: pytree.TreeSpec) -> tuple[Any, ...]:
        """The batch where the model is, as the copy into static buffers brings it there."""
        device = self._params[0].device
        moved = [leaf.to(device) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return pytree.tree_unflatten(moved, structure)

    def _eagerly(self, reason: str | None, batch: tuple[Any, ...]) -> Tensor:
        self.reason = reason
        self.eager_steps += 1
        return self._run(*batch)

    def _warm(self, leaves: list[Any], structure: pytree.TreeSpec) -> Tensor:
        batch = self._on_device(leaves, structure)
        reason = f"warming up: step {self._alike + 1} of {WARM_STEPS} before the capture"
        scale = _scale_of(self._scaler)
        loss = self._graph.warm(lambda: self._eagerly(reason, batch))
        # The scale falls where a step is left out; such a step may leave states to be made by the next.
        if _scale_of(self._scaler) >= scale:
            self._alike += 1
        return loss

    def _capture(self) -> bool:
        """Record the step; False, and never again, where that is not possible."""
        batch = pytree.tree_unflatten(self._static, self._structure)
        try:
            with self._rates.static():
                self._loss = self._graph.capture(lambda: self._rates.watched(self._run, batch))
        except BackendError:  # a backend asked for by name is not silently replaced
            raise
        except RuntimeError as error:  # whatever cannot be recorded: a wait for the device, mostly
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self._refusal = f"the step cannot be captured: {lines[0][:200]}"
            return False
        self._grads = [(param, param.grad) for param in self._params]
        return True

    def _fill(self, leaves: list[Any]) -> None:
        for static, leaf in zip(self._static, leaves, strict=True):
            if isinstance(leaf, Tensor):
                static.copy_(leaf, non_blocking=True)

    @torch.no_grad()
    def _replay(self) -> Tensor:
        self._rates.follow()
        for param, grad in self._grads:
            if (
                param.grad is not grad
            ):  # an eager step, or `zero_grad`, has put another in its place
                param.grad = grad
        self._graph.replay()
        # A scheduler that has not seen `step` called would warn of steps in the wrong order.
        self._optimizer._opt_called = True  # type: ignore[attr-defined]
        self.reason = None
        self.replayed_steps += 1
        return self._loss.clone()


class _Rates:
    """The learning rates as a graph reads them: scalars on the device, which follow the groups' own.

    The groups keep what their owner put there, numbers mostly, so that schedulers and state_dicts see what
    they always see. A rate that is a tensor on the device already is read where it is.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer, self._device = optimizer, device
        self._static: list[Tensor] = []
        self._last: list[Any] = []

    @contextlib.contextmanager
    def static(self) -> Iterator[None]:
        """The groups hold the scalars meanwhile."""
        groups = self._optimizer.param_groups
        given = [group["lr"] for group in groups]
        self._static, self._last = [], list(given)
        for group, lr in zip(groups, given, strict=True):
            if not (isinstance(lr, Tensor) and lr.device == self._device):
                lr = torch.tensor(float(lr), dtype=torch.float32, device=self._device)
            self._static.append(lr)
            group["lr"] = lr
        try:
            yield
        finally:
            for group, lr in zip(groups, given, strict=True):
                group["lr"] = lr

    def watched(self, run: Callable[..., Tensor], batch: tuple[Any, ...]) -> Tensor:
        """Run, and see that the rates are left alone: a graph would set the same one each time.

        Raises:
            RuntimeError: they were not.
        """
        versions = [rate._version for rate in self._static]
        loss = run(*batch)
        groups = zip(self._optimizer.param_groups, self._static, versions, strict=True)
        if any(group["lr"] is not lr or lr._version != version for group, lr, version in groups):
            raise RuntimeError("it sets its learning rate itself; step the scheduler behind it")
        return loss

    def follow(self) -> None:
        """Bring the scalars up to date."""
        for index, group in enumerate(self._optimizer.param_groups):
            lr, static = group["lr"], self._static[index]
            if isinstance(lr, Tensor):
                static.copy_(lr, non_blocking=True)  # nothing, where they are one
            elif lr != self._last[index]:
                static.fill_(lr)
            self._last[index] = lr


def capture_step(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    example_batch: tuple[Any, Any],
    *,
    scaler: torch.amp.GradScaler | None = None,
    autocast: torch.dtype | None = None,
) -> CapturedStep:
    """A training step as one call that is replayed as one CUDA graph: `loss = step(inputs, targets)`.

    Each call is `optimizer.zero_grad(set_to_none=True)`, `loss = loss_fn(model(inputs), targets)`,
    `loss.backward()` and `optimizer.step()`, as in eager mode, from the first call on: three warm the device
    up eagerly, the fourth is recorded, and from then on calls are replayed. A batch of another shape (the
    last short one) runs eagerly. Learning rates may be changed by a scheduler or by hand; any other change
    (modes, frozen Parameters, options of optimizer and scaler, a loaded state of the optimizer, another
    `use_backend`) is noticed, and captured anew where it stays. With a scaler, steps that are left out do not
    count for the warm-up. Where a step cannot be captured, every call runs eagerly, and `.reason` says why.

    The optimizer's groups are made `capturable`. The loss that is returned has memory of its own; the `.grad`
    of Parameters is overwritten by the next replay. Python in the model and the loss runs only when the step
    is recorded: counters and printing there stand still. What waits for the device, `.item()` for instance,
    cannot be captured.

    Args:
        model: all of it on one CUDA device. Not wrapped in DistributedDataParallel.
        loss_fn: called as loss_fn(output, targets); returns a scalar.
        optimizer: over the model's Parameters: an SGD (PyTorch's with `fused=True`, or fm.optim's), or one
            with a `capturable` option.
        example_batch: (inputs, targets) as every full batch is, on any device. inputs are a tensor, a tuple
            of positional arguments, or a dict of keyword arguments. Only looked at, not trained on.
        scaler: scales the loss, unscales in the step, and is updated; the optimizer must be one that takes
            the scale (`fused=True`, or one of `fm.optim`, with `fm.optim.GradScaler` too).
        autocast: run forward and loss under autocast to this dtype.

    Returns:
        A `CapturedStep`, with `reason`, `replayed_steps` and `eager_steps`.

    Raises:
        InputError: example_batch is not a pair, or the model has no Parameters.
        BackendError: (at the call) `use_backend` asked for a backend that cannot serve the step.
    """
    if not (isinstance(example_batch, (tuple, list)) and len(example_batch) == 2):
        raise InputError("capture_step: example_batch must be (inputs, targets)")
    if next(model.parameters(), None) is None:
        raise InputError(f"capture_step: {type(model).__name__} has no Parameters to train")
    refusal = refusal_of(model, optimizer, scaler)
    run = eager_step(model, loss_fn, optimizer, scaler, autocast)
    return captured(run, model, optimizer, tuple(example_batch), refusal, scaler)


def captured(
    run: Callable[..., Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    example_batch: tuple[Any, ...],
    refusal: str | None,
    scaler: torch.amp.GradScaler | None = None,
) -> CapturedStep:
    """A `CapturedStep` of any eager step, over CUDA graphs; `refusal` as `refusal_of` gives it."""
    device = next(model.parameters()).device
    make_graph = None if refusal is not None else lambda: CudaGraph(device)
    return CapturedStep(run, model, optimizer, example_batch, make_graph, refusal, scaler)


def eager_step(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    autocast: torch.dtype | None = None,
) -> Callable[[Any, Any], Tensor]:
    """The step as eager mode runs it: (inputs, targets) to the loss, detached."""
    device_type = next(model.parameters()).device.type

    def run(inputs: Any, targets: Any) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast_to(device_type, autocast):
            loss = loss_fn(_called(model, inputs), targets)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            try:
                scaler.step(optimizer)
            finally:
                # A step that raises, in a capture for instance, has not taken them back, and the scaler
                # would multiply the next step's scale by this one's.
                for name in ("grad_scale", "found_inf"):
                    vars(optimizer).pop(name, None)
            scaler.update()
        return loss.detach()

    return run


def autocast_to(
    device_type: str, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[Any]:
    """Autocast to this dtype; None for none of its own, which leaves one around it as it is."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device_type, dtype)


def refusal_of(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> str | None:
    """Why no step of these can be captured, as far as can be told beforehand; None if one may be."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    devices = {param.device for param in (*model.parameters(), *model.buffers())}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        where = ", ".join(sorted(map(str, devices)))
        return f"the model lies on {where}; a CUDA graph needs all of it on one CUDA device"
    return parts_refusal(model, optimizer, scaler)


def parts_refusal(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> str | None:
    """What of `refusal_of` holds on any device."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return "DistributedDataParallel's hooks are not captured"
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if group.get("differentiable"):
            return f"{name}(differentiable=True) keeps a graph of its own"
        if isinstance(optimizer, torch.optim.SGD):
            asks_for_none = group["fused"] is None and group["foreach"] is None
            if not (group["fused"] or (asks_for_none and isinstance(optimizer, FusedStep))):
                return _SGD_NEEDS
        elif "capturable" not in group:
            return f"{name} has no capturable option: its step counts on the host"
    if (
        scaler is not None
        and scaler.is_enabled()
        and not getattr(optimizer, "_step_supports_amp_scaling", False)
    ):
        return f"a GradScaler's step of {name} waits for the device; pass fused=True, or take fm.optim's"
    return None


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer count its steps on the device, as `capturable=True` does."""
    for group in optimizer.param_groups:
        if "capturable" not in group:
            continue
        group["capturable"] = True
        for param in group["params"]:
            step = optimizer.state.get(param, {}).get("step")
            if isinstance(step, Tensor):
                optimizer.state[param]["step"] = step.to(param.device)


def _scaler_options(scaler: torch.amp.GradScaler | None) -> tuple | None:
    """What a scaler's `update` reads on the host."""
    if scaler is None or not scaler.is_enabled():
        return None
    return (
        scaler.get_growth_factor(),
        scaler.get_backoff_factor(),
        scaler.get_growth_interval(),
    )


def _scale_of(scaler: torch.amp.GradScaler | None) -> float:
    return 1.0 if scaler is None else scaler.get_scale()


def _called(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _form_of(leaf: Any) -> Any:
    """What a graph fixes of a part of the batch: a tensor's shape and dtype, anything else as it is."""
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _in_words(part: Any) -> str:
    shape, dtype = _form_of(part) if isinstance(part, Tensor) else (part, None)
    if isinstance(part, tuple) and len(part) == 2 and isinstance(part[1], torch.dtype):
        shape, dtype = part
    if dtype is None:
        return repr(part)
    return f"{tuple(shape)} {str(dtype).removeprefix('torch.')}"


def _static_like(leaf: Any, device: torch.device) -> Any:
    return torch.empty_like(leaf, device=device) if isinstance(leaf, Tensor) else leaf


def _comparable(value: Any) -> Any:
    """An option as `==` can compare it: a tensor by which one it is."""
    if isinstance(value, Tensor):
        return id(value)
    return tuple(map(_comparable, value)) if isinstance(value, (list, tuple)) else value
