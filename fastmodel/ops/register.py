"""Register an op and its backward with PyTorch: schema, kernel, fake, autograd, autocast, FLOP formula.

Each op has two entries in the `fastmodel` library: `<op>` and `<op>_backward`. Both run through
`dispatch.run`, so each pass is a row of the table. The backward op is differentiable through the
reference, which is plain PyTorch: that gives second and higher derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.utils.flop_counter import register_flop_formula

from fastmodel.ops import dispatch

_LIBRARY = torch.library.Library("fastmodel", "DEF")

_AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def op(schema: str, *, fake: Callable, pass_: str = "forward") -> torch._ops.OpOverload:
    """Define an op served by the rows of one pass of the kernel table.

    Args:
        schema: for instance "linear_relu(Tensor x, Tensor weight, Tensor? bias) -> Tensor"; for the
            backward pass the name ends in "_backward".
        fake: takes the same arguments and returns empty outputs of the right shape, dtype and strides.
        pass_: "forward" or "backward".

    Returns:
        The op, to call and to attach the rest to.
    """
    name = schema[: schema.index("(")]
    table_name = name.removesuffix("_backward")
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)

    def kernel(*args):
        return dispatch.run(table_name, pass_, *args)

    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastmodel::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.fastmodel, name).default


def autograd(target: torch._ops.OpOverload, setup_context: Callable, backward: Callable) -> None:
    """Attach the derivative, in the form of `torch.library.register_autograd`."""
    torch.library.register_autograd(
        target.name(), backward, setup_context=setup_context, lib=_LIBRARY
    )


def autograd_through_reference(target: torch._ops.OpOverload, reference: Callable) -> None:
    """Attach the derivative of `target` that autograd finds through `reference`.

    The reference takes target's arguments and computes the same with differentiable PyTorch ops. The
    derivative is itself differentiable, to any order.
    """

    def setup_context(ctx, inputs, output):
        ctx.positions = [i for i, value in enumerate(inputs) if isinstance(value, torch.Tensor)]
        ctx.others = [None if isinstance(value, torch.Tensor) else value for value in inputs]
        ctx.save_for_backward(*[inputs[i] for i in ctx.positions])

    def backward(ctx, *grads):
        inputs = list(ctx.others)
        wanted = []
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            for position, tensor in zip(ctx.positions, ctx.saved_tensors, strict=True):
                if tensor.is_floating_point():
                    tensor = tensor.view_as(tensor) if tensor.requires_grad else tensor.detach()
                    tensor.requires_grad_(True)
                    wanted.append(position)
                inputs[position] = tensor
            outputs = reference(*inputs)
            outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
            pairs = [
                (output, grad)
                for output, grad in zip(outputs, grads, strict=True)
                if grad is not None and output.requires_grad
            ]
            found = torch.autograd.grad(
                [output for output, _ in pairs],
                [inputs[position] for position in wanted],
                [grad for _, grad in pairs],
                allow_unused=True,
                create_graph=create_graph,
            )
        result: list[torch.Tensor | None] = [None] * len(inputs)
        for position, grad in zip(wanted, found, strict=True):
            result[position] = grad
        return tuple(result)

    autograd(target, setup_context, backward)


def autocast(
    target: torch._ops.OpOverload,
    dtype: torch.dtype | None = None,
    device_types: Iterable[str] = tuple(_AUTOCAST_KEYS),
    argument: int | None = None,
    leading: int | None = None,
) -> None:
    """Under autocast, cast floating arguments before the call.

    Args:
        target: the op.
        dtype: what they are cast to; None for the dtype of the autocast region.
        device_types: where; elsewhere the op takes its arguments as they come.
        argument: the position of the only one that is cast; None for all.
        leading: how many arguments, from the first, are cast; None for all.
    """
    name = target.name().removeprefix("fastmodel::")
    which = slice(0, leading) if argument is None else slice(argument, argument + 1)
    for device_type in device_types:
        kernel = _autocast_kernel(target, device_type, dtype, which)
        _LIBRARY.impl(name, kernel, _AUTOCAST_KEYS[device_type])


def _autocast_kernel(target, device_type: str, dtype: torch.dtype | None, which: slice) -> Callable:
    key = getattr(torch._C.DispatchKey, _AUTOCAST_KEYS[device_type])
    below = torch._C.DispatchKeySet(key)

    def kernel(*args):
        to = dtype if dtype is not None else torch.get_autocast_dtype(device_type)
        cast = list(args)
        cast[which] = [_cast(value, device_type, to) for value in args[which]]
        with torch._C._ExcludeDispatchKeyGuard(below):
            return target(*cast)

    return kernel


def _cast(value, device_type: str, dtype: torch.dtype):
    is_eligible = (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.device.type == device_type
        and value.dtype != torch.float64
    )
    return value.to(dtype) if is_eligible else value


def flops(target: torch._ops.OpOverload, formula: Callable) -> None:
    """Attach the FLOP formula: it takes the arguments with shapes for tensors, and `out_shape`."""
    register_flop_formula(target.overloadpacket)(formula)
