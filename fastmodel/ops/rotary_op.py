"""The rotary embeddings as PyTorch ops; each op's own folder has its mathematics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmodel.ops import eager, register, rotary


def define(name: str, reference_backward: Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    """Register `name` and its backward.

    No autocast rule: products with a table are what they are given.

    Args:
        name: of the op, in the kernel table too.
        reference_backward: (grad_q, grad_k, cos, sin, wanted) to the gradients of q and k.

    Returns:
        (q, k, cos, sin) to q and k turned.
    """

    def forward_fake(q, k, cos, sin):
        return torch.empty_like(q), torch.empty_like(k)

    def backward_fake(grad_q, grad_k, cos, sin, wanted):
        return rotary.gradients_like(grad_q, grad_k, wanted)

    forward = register.op(
        f"{name}(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)",
        fake=forward_fake,
    )
    backward = register.op(
        f"{name}_backward(Tensor grad_q, Tensor grad_k, Tensor cos, Tensor sin, bool[2] wanted)"
        " -> (Tensor, Tensor)",
        fake=backward_fake,
        pass_="backward",
    )
    call_backward = eager.backward(backward)

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[2:])

    def derivative(ctx, grad_q, grad_k):
        wanted = list(ctx.needs_input_grad[:2])
        found = call_backward(grad_q, grad_k, *ctx.saved_tensors, wanted)
        given = [value if want else None for value, want in zip(found, wanted, strict=True)]
        return (*given, None, None)

    register.autograd(forward, setup_context, derivative)
    register.autograd_through_reference(backward, reference_backward)
    return eager.forward(forward, setup_context, derivative)
