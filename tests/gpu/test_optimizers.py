"""The optimizers on the device, against PyTorch's for-loop in float64."""

import copy

import measure
import pytest
import torch
from support import gpu
from torch import nn

import fastmodel as fm

gpu.require()

SHAPES = ((), (1,), (1023,), (1025,), (0,), (65_537,), (16, 8, 3, 3))
KINDS = {
    "adam": (fm.optim.Adam, torch.optim.Adam, {"lr": 0.01}),
    "adam-amsgrad": (fm.optim.Adam, torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "adam-decay-maximize": (
        *(fm.optim.Adam, torch.optim.Adam),
        {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    ),
    "adamw": (fm.optim.AdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "sgd": (fm.optim.SGD, torch.optim.SGD, {"lr": 0.1}),
    "sgd-momentum": (
        *(fm.optim.SGD, torch.optim.SGD),
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
}
STEPS = 3


def tensors(seed, dtype, device=gpu.DEVICE):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator).to(device, dtype) for shape in SHAPES]
    made[-1] = made[-1].contiguous(memory_format=torch.channels_last)
    return made


def gradients(step, dtype, strided):
    """channels_last parameters get contiguous gradients where they are strided."""
    found = tensors(100 + step, dtype)
    return [grad.contiguous() for grad in found] if strided else found


def stepped(make, dtype, options, strided=False, max_norm=None):
    params = [nn.Parameter(t) for t in tensors(0, dtype)]
    optimizer = make(params, **options)
    for step in range(STEPS):
        for param, grad in zip(params, gradients(step, dtype, strided), strict=True):
            param.grad = grad
        if max_norm is not None:
            nn.utils.clip_grad_norm_(params, max_norm)
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.parametrize("strided", [False, True], ids=["alike", "other-strides"])
@pytest.mark.parametrize("name", KINDS)
def test_steps(name, strided):
    ours, theirs, options = KINDS[name]
    found = stepped(ours, torch.float32, options, strided)
    expected = stepped(theirs, torch.float64, {**options, "foreach": False}, strided)
    assert measure.difference(found, expected) is None


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_parameters(name):
    ours, theirs, options = KINDS[name]
    found = stepped(ours, torch.bfloat16, options)
    expected = stepped(theirs, torch.float64, {**options, "foreach": False})
    # Rounded once in each step, and at the start.
    for a, b in zip(found, expected, strict=True):
        assert measure.relative_error(a, b) <= (STEPS + 1) * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("name", ["adamw", "sgd-momentum"])
def test_clipping(name):
    ours, theirs, options = KINDS[name]
    found = stepped(ours, torch.float32, {**options, "max_grad_norm": 0.5})
    expected = stepped(theirs, torch.float64, {**options, "foreach": False}, max_norm=0.5)
    assert measure.difference(found, expected) is None


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("kind", [torch.amp.GradScaler, fm.optim.GradScaler], ids=["torch", "fm"])
@pytest.mark.parametrize("name", ["adamw", "sgd-momentum"])
def test_a_grad_scaler(name, kind, max_norm):
    """Two steps of scaled gradients, one with an infinity, which is left out."""
    ours, theirs, options = KINDS[name]
    results = []
    for make in (ours, theirs):
        params = [nn.Parameter(t) for t in tensors(0, torch.float32)]
        own = {} if max_norm is None or make is theirs else {"max_grad_norm": max_norm}
        optimizer = make(params, **options, fused=True, **own)
        scaler = (torch.amp.GradScaler if make is theirs else kind)(gpu.DEVICE, init_scale=256.0)
        for step in range(STEPS):
            scaler.scale(torch.ones((), device=gpu.DEVICE))
            for param, grad in zip(params, gradients(step, torch.float32, False), strict=True):
                param.grad = grad * scaler.get_scale()
            if step == 1:
                params[2].grad[7] = torch.inf
            if max_norm is not None and make is theirs:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(params, max_norm)
            scaler.step(optimizer)
            scaler.update()
        results.append([param.detach().double() for param in params])
        assert scaler.get_scale() == 128.0
    for a, b in zip(*results, strict=True):
        assert measure.relative_error(a, b) <= measure.bound(torch.float32)


@pytest.mark.parametrize("name", KINDS)
def test_a_state_moves_between_ours_and_pytorchs(name):
    ours, theirs, options = KINDS[name]
    found = []
    for first, second in ((ours, theirs), (theirs, ours)):
        params = [nn.Parameter(t) for t in tensors(0, torch.float32)]
        saved = None
        for step, make in enumerate((first, second)):
            optimizer = make(params, **options)
            if saved is not None:
                optimizer.load_state_dict(saved)
            for param, grad in zip(params, gradients(step, torch.float32, False), strict=True):
                param.grad = grad
            optimizer.step()
            saved = copy.deepcopy(optimizer.state_dict())
        found.append([param.detach().double() for param in params])
    for a, b in zip(*found, strict=True):
        assert measure.relative_error(a, b) <= measure.bound(torch.float32)
