"""Layouts of parameters, gradients and states: every drop-in optimizer steps them as PyTorch's for-loop."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import fastmodel as fm
from fastmodel.ops import tensor_table
from support.optimizers import (
    SHAPE,
    assert_together,
    channels_last,
    give_grads,
    parameters,
    randn,
    run_together,
    twins_of,
)


def _in_buffer(values: Tensor, index) -> tuple[Tensor, Tensor]:
    buffer = torch.full((2 * values.shape[0] + 1, *values.shape[1:]), 7.0, dtype=values.dtype)
    view = buffer[index]
    view.copy_(values)
    return view, buffer


def _offset(values: Tensor) -> Tensor:
    buffer = torch.zeros(values.numel() + 1, dtype=values.dtype)
    buffer[1:] = values.reshape(-1)
    return buffer[1:].view(values.shape)


def _swapped(values: Tensor) -> Tensor:
    return values.transpose(0, 1).contiguous().transpose(0, 1)


LAYOUTS = {
    "contiguous": (lambda v: (v, None), lambda g: g),
    "channels_last": (lambda v: (channels_last(v), None), channels_last),
    "channels_last, contiguous gradient": (lambda v: (channels_last(v), None), lambda g: g),
    "contiguous, channels_last gradient": (lambda v: (v, None), channels_last),
    "transposed, contiguous gradient": (lambda v: (_swapped(v), None), lambda g: g),
    "strided view": (lambda v: _in_buffer(v, slice(0, 8, 2)), lambda g: g),
    "slice of a buffer": (lambda v: _in_buffer(v, slice(1, 5)), lambda g: g),
    "strided view, channels_last gradient": (
        lambda v: _in_buffer(v, slice(1, 8, 2)),
        channels_last,
    ),
    "misaligned": (lambda v: (_offset(v), None), _offset),
    "expanded gradient": (lambda v: (v, None), lambda g: g[:1, :1, :1, :1].expand(g.shape)),
}


def check_layout(opt, layout, options, dtype) -> None:
    """Three steps equal PyTorch's for-loop; elements around a view keep their values."""
    place, place_grad = LAYOUTS[layout]
    values = randn(0, *SHAPE, dtype=dtype)
    view, buffer = place(values.clone())
    params = [nn.Parameter(view), nn.Parameter(randn(1, 9, dtype=dtype))]
    assert params[0].data_ptr() == view.data_ptr()
    wide = [nn.Parameter(values.double()), nn.Parameter(params[1].detach().double())]
    ours, oracle = opt.make(params, **options), opt.plain(wide, **options)
    for step in range(3):
        give_grads(step, params, wide)
        params[0].grad = place_grad(params[0].grad.clone())
        wide[0].grad = params[0].grad.double().contiguous()
        ours.step()
        oracle.step()
    steps = 3 if dtype == torch.float32 else 6  # moments are rounded too
    assert_together(params, wide, steps, dtype)
    assert params[0].data_ptr() == view.data_ptr() and params[0].stride() == view.stride()
    if buffer is not None:
        outside = torch.ones(buffer.shape, dtype=torch.bool)
        outside.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(False)
        assert (buffer[outside] == 7.0).all() and outside.any()


def check_resumed_across_layouts(opt) -> None:
    """A checkpoint of contiguous parameters goes on in channels_last ones, and back."""
    params = parameters(SHAPE)
    wide = twins_of(params, torch.float64)
    oracle = opt.plain(wide, **opt.full)
    run_together([first := opt.make(params, **opt.full), oracle], [params, wide], 3)
    for step, layout in ((3, torch.channels_last), (6, torch.contiguous_format)):
        params = [nn.Parameter(params[0].detach().clone(memory_format=layout))]
        second = opt.make(params, **opt.full)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        run_together([second, oracle], [params, wide], 3, step)
        first = second
    assert_together(params, wide, 9)


def check_fused_heeds_strides(opt) -> None:
    """fused=True on a float64 channels_last parameter with a contiguous gradient."""
    params = [nn.Parameter(channels_last(randn(0, *SHAPE, dtype=torch.float64)))]
    twins = [nn.Parameter(params[0].detach().contiguous())]
    ours = opt.make(params, fused=True, **opt.full)
    run_together([ours, opt.plain(twins, **opt.full)], [params, twins], 3)
    torch.testing.assert_close(params[0].contiguous(), twins[0])


def check_without_exchange_api(opt, monkeypatch) -> None:
    """A PyTorch without DLPack's exchange API is served by the same kernel."""
    monkeypatch.setattr(tensor_table, "_EXCHANGE_API", None)
    params = [*parameters((33,), (0, 2), ()), nn.Parameter(channels_last(randn(9, *SHAPE)))]
    wide = twins_of(params, torch.float64)
    with fm.use_backend("cpu"):
        ours = opt.make(params, **opt.full)
        run_together([ours, opt.plain(wide, **opt.full)], [params, wide], 3)
    assert_together(params, wide, 3)
