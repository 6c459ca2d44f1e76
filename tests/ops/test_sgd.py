"""fm.optim.SGD against torch.optim's for-loop in float64."""

import pytest
import torch
from support import optim_clipping, optim_layouts, optim_life, optim_numbers, optimizers
from support.optimizers import OptimizerUnderTest

import fastmodel as fm
from fastmodel.ops.sgd.cases import CASES

FULL = {"momentum": 0.9, "weight_decay": 0.1}
SGD = OptimizerUnderTest(fm.optim.SGD, torch.optim.SGD, FULL)

SMALL = [case for case in CASES if not case.is_bench]
VARIANTS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "nesterov-maximize": {"momentum": 0.8, "nesterov": True, "maximize": True},
}
VARIANT = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())


@VARIANT
@pytest.mark.parametrize(("case", "backend", "dtype"), optim_numbers.one_step_runs("sgd", CASES))
def test_one_step(case, backend, dtype, options):
    optim_numbers.check_one_step(SGD, case, options, backend, dtype)


@VARIANT
def test_long_run(options):
    optim_numbers.check_long_run(SGD, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", optim_layouts.LAYOUTS)
@pytest.mark.parametrize("options", [{}, FULL], ids=["plain", "momentum"])
def test_layout(layout, options, dtype):
    optim_layouts.check_layout(SGD, layout, options, dtype)


@VARIANT
def test_state_dict_both_ways(options, tmp_path):
    optim_life.check_state_dict_both_ways(SGD, options, tmp_path)


@VARIANT
def test_special_gradients(options):
    optim_numbers.check_special_gradients(SGD, options)


@pytest.mark.parametrize("options", [{}, FULL], ids=["plain", "momentum"])
def test_threads(options):
    optim_numbers.check_threads(SGD, next(c for c in SMALL if c.name == "share-edges"), options)


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_grad_norm(max_grad_norm, dtype):
    optim_clipping.check_max_grad_norm(SGD, max_grad_norm, dtype)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_grad_scaler(is_fused, max_grad_norm):
    optim_clipping.check_grad_scaler(SGD, is_fused, max_grad_norm)


def test_clip_sweep():
    optim_clipping.check_clip_threads(SGD)
    optim_clipping.check_clip_with_others(SGD)
    optim_clipping.check_clip_special(SGD)


@pytest.mark.parametrize("lr", [torch.tensor(0.05), torch.tensor([0.05])], ids=str)
def test_tensor_options(lr):
    optim_numbers.check_tensor_options(SGD, {"lr": lr, "weight_decay": torch.tensor(0.1)})


@pytest.mark.parametrize(
    "check",
    [
        optim_layouts.check_resumed_across_layouts,
        optim_numbers.check_shared_memory,
        optim_life.check_reassigned,
        optim_life.check_life_of_a_loop,
        optim_life.check_hooks_and_profiler,
        optim_life.check_explicit_backend_writes_nothing,
        optim_life.check_pytorch_implementations,
        optim_layouts.check_fused_heeds_strides,
        optim_numbers.check_differentiable,
        optim_numbers.check_negated_view,
        optim_life.check_compiles,
        optim_life.check_errors,
    ],
)
def test_semantics(check):
    check(SGD)


def test_left_to_pytorch():
    optim_life.check_left_to_pytorch(SGD)


def test_without_exchange_api(monkeypatch):
    optim_layouts.check_without_exchange_api(SGD, monkeypatch)


@pytest.mark.parametrize("options", [{}, FULL], ids=["plain", "momentum"])
def test_sparse_gradients(options):
    options = {key: value for key, value in options.items() if key != "weight_decay"}
    params = optimizers.parameters((4,), (6, 2))
    twins = optimizers.twins_of(params)
    both = [SGD.make(params, **options), SGD.plain(twins, **options)]
    for step in range(3):
        optimizers.give_grads(step, params, twins)
        for model in (params, twins):
            model[1].grad = model[1].grad.relu().to_sparse()
        for optimizer in both:
            optimizer.step()
    assert torch.equal(params[1], twins[1])
    optimizers.assert_together(params, twins, 3)


def test_no_momentum_leaves_no_state():
    params = optimizers.parameters((4,))
    optimizer = SGD.make(params)
    optimizers.give_grads(0, params)
    optimizer.step()
    assert optimizer.state_dict()["state"] == {}
