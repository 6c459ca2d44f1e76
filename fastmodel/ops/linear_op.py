"""Ops that are a linear layer, alone or with an elementwise activation, as PyTorch ops.

`from_inputs` is for the layer alone, `from_out` for an activation whose derivative follows from its output,
`from_pre` for one that needs what it was applied to, pre = x @ weight.T + bias. Each op's own folder has its
mathematics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmodel.ops import eager, linear_layer, recompute, register

_INPUTS = "Tensor x, Tensor weight, Tensor? bias"


def _backward_op(name: str, saved: str | None, reference: Callable) -> torch._ops.OpOverload:
    """The op of the backward pass, which is differentiable through the reference.

    `saved` names what it reads of forward's result; None for nothing.
    """

    def fake(grad, x, weight, *rest):
        return linear_layer.gradients_like(x, weight, rest[-1])

    reads = "" if saved is None else f"Tensor {saved}, "
    target = register.op(
        f"{name}_backward(Tensor grad, Tensor x, Tensor weight, {reads}bool[3] wanted)"
        " -> (Tensor, Tensor, Tensor)",
        fake=fake,
        pass_="backward",
    )
    register.autograd_through_reference(target, reference)
    register.flops(target, linear_layer.backward_flops)
    return target


def _finish(
    forward: torch._ops.OpOverload, setup_context: Callable, derivative: Callable
) -> Callable:
    """Autograd, autocast and FLOPs of a forward op; the callable that answers as it does."""
    register.autograd(forward, setup_context, derivative)
    register.autocast(forward)
    register.flops(forward, linear_layer.forward_flops)
    return eager.forward(forward, setup_context, derivative)


def from_inputs(name: str, reference_backward: Callable) -> Callable[..., Tensor]:
    """Register `name` and its backward.

    Args:
        name: of the op, in the kernel table too.
        reference_backward: (grad, x, weight, wanted) to the gradients of x, weight and bias.

    Returns:
        (x, weight, bias) to out.
    """
    return _of_one_result(name, None, reference_backward)


def from_out(name: str, reference_backward: Callable) -> Callable[..., Tensor]:
    """Register `name` and its backward.

    Args:
        name: of the op, in the kernel table too.
        reference_backward: (grad, x, weight, out, wanted) to the gradients of x, weight and bias.

    Returns:
        (x, weight, bias) to out.
    """
    return _of_one_result(name, "out", reference_backward)


def _of_one_result(
    name: str, saved: str | None, reference_backward: Callable
) -> Callable[..., Tensor]:
    def fake(x, weight, bias):
        return linear_layer.out_like(x, weight)

    forward = register.op(f"{name}({_INPUTS}) -> Tensor", fake=fake)
    call_backward = eager.backward(_backward_op(name, saved, reference_backward))

    def setup_context(ctx, inputs, output):
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight, *([] if saved is None else [output]))

    def derivative(ctx, grad):
        wanted = list(ctx.needs_input_grad)
        found = call_backward(grad, *ctx.saved_tensors, wanted)
        return tuple(value if want else None for value, want in zip(found, wanted, strict=True))

    return _finish(forward, setup_context, derivative)


def from_pre(
    name: str, activation: Callable[[Tensor], Tensor], reference_backward: Callable
) -> Callable[..., Tensor]:
    """Register `name` and its backward.

    The op has pre as a second output, empty unless asked for. It is differentiable, so that the second
    derivative, which passes through what backward saved, finds its way to the inputs.

    Args:
        name: of the op, in the kernel table too.
        activation: pre to out.
        reference_backward: (grad, x, weight, pre, wanted) to the gradients of x, weight and bias.

    Returns:
        (x, weight, bias) to out.
    """

    def fake(x, weight, bias, keeps_pre):
        out = linear_layer.out_like(x, weight)
        return out, torch.empty_like(out) if keeps_pre else out.new_empty(0)

    forward = register.op(f"{name}({_INPUTS}, bool keeps_pre) -> (Tensor, Tensor)", fake=fake)
    call_backward = eager.backward(_backward_op(name, "pre", reference_backward))

    def setup_context(ctx, inputs, output):
        x, weight, *_ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, output[1])

    def derivative(ctx, grad, grad_pre):
        wanted = list(ctx.needs_input_grad[:3])
        x, weight, pre = ctx.saved_tensors
        parts = []
        if grad is not None:
            parts.append(call_backward(grad, x, weight, pre, wanted))
        if grad_pre is not None and pre.numel():
            parts.append(linear_layer.gradients(grad_pre, x, weight, wanted))
        if not parts:
            return (None,) * 4
        sums = [
            values[0] if len(parts) == 1 else values[0] + values[1]
            for values in zip(*parts, strict=True)
        ]
        return (*(value if want else None for value, want in zip(sums, wanted, strict=True)), None)

    call_forward = _finish(forward, setup_context, derivative)

    def call(x, weight, bias):
        out, pre = call_forward(x, weight, bias, eager.wants_derivative())
        if recompute.is_on():
            recompute.offer(out, activation, pre)
        return out

    return call
