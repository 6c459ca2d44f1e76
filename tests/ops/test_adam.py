"""fm.optim.Adam and AdamW against torch.optim's for-loop in float64."""

import pytest
import torch
from support import optim_clipping, optim_layouts, optim_life, optim_numbers, optimizers
from support.optimizers import OptimizerUnderTest

import fastmodel as fm
from fastmodel.ops.adam.cases import CASES

FULL = {"amsgrad": True, "weight_decay": 0.1}
ADAM = OptimizerUnderTest(fm.optim.Adam, torch.optim.Adam, FULL)
ADAMW = OptimizerUnderTest(fm.optim.AdamW, torch.optim.AdamW, FULL)

SMALL = [case for case in CASES if not case.is_bench]
VARIANTS = {
    "adam": (ADAM, {}),
    "adam-l2": (ADAM, {"weight_decay": 0.1}),
    "adam-amsgrad-l2-maximize": (ADAM, {**FULL, "maximize": True}),
    "adam-betas": (ADAM, {"betas": (0.3, 0.7), "eps": 1e-3, "amsgrad": True}),
    "adam-decoupled": (ADAM, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adam-beta1-0": (ADAM, {"betas": (0.0, 0.9)}),
    "adamw": (ADAMW, {}),
    "adamw-amsgrad-maximize": (ADAMW, {"amsgrad": True, "maximize": True}),
}
VARIANT = pytest.mark.parametrize(("opt", "options"), VARIANTS.values(), ids=VARIANTS.keys())
BOTH = pytest.mark.parametrize("opt", [ADAM, ADAMW], ids=str)
ONE = pytest.mark.parametrize("opt", [ADAM], ids=str)


def test_sizes_of_named_lists():
    """The published counts of parameters."""
    found = {case.name: case.bytes_float32 // 28 for case in CASES}
    assert found["resnet50"] == 25_557_032
    assert found["gpt2-small"] == 124_439_808


@VARIANT
@pytest.mark.parametrize(("case", "backend", "dtype"), optim_numbers.one_step_runs("adam", CASES))
def test_one_step(case, backend, dtype, opt, options):
    optim_numbers.check_one_step(opt, case, options, backend, dtype)


@VARIANT
def test_long_run(opt, options):
    optim_numbers.check_long_run(opt, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", optim_layouts.LAYOUTS)
@BOTH
def test_layout(opt, layout, dtype):
    optim_layouts.check_layout(opt, layout, FULL, dtype)


@VARIANT
def test_state_dict_both_ways(opt, options, tmp_path):
    optim_life.check_state_dict_both_ways(opt, options, tmp_path)


@VARIANT
def test_special_gradients(opt, options):
    optim_numbers.check_special_gradients(opt, options)


@ONE
def test_threads(opt):
    optim_numbers.check_threads(opt, next(c for c in SMALL if c.name == "share-edges"), FULL)


@BOTH
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_grad_norm(opt, max_grad_norm, dtype):
    optim_clipping.check_max_grad_norm(opt, max_grad_norm, dtype)


@BOTH
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_grad_scaler(opt, is_fused, max_grad_norm):
    optim_clipping.check_grad_scaler(opt, is_fused, max_grad_norm)


@ONE
def test_clip_sweep(opt):
    optim_clipping.check_clip_threads(opt)
    optim_clipping.check_clip_with_others(opt)
    optim_clipping.check_clip_special(opt)


@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05), torch.tensor([0.05])], ids=str)
@pytest.mark.parametrize("betas", [(0.9, 0.99), (torch.tensor(0.9), torch.tensor(0.99))], ids=str)
def test_tensor_options(lr, betas):
    optim_numbers.check_tensor_options(ADAM, {"lr": lr, "betas": betas, "weight_decay": 0.1})


@BOTH
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
def test_semantics(opt, check):
    check(opt)


@BOTH
def test_left_to_pytorch(opt):
    optim_life.check_left_to_pytorch(opt)


@BOTH
def test_without_exchange_api(opt, monkeypatch):
    optim_layouts.check_without_exchange_api(opt, monkeypatch)


@ONE
def test_sparse_gradients_are_refused_as_by_pytorch(opt):
    params = optimizers.parameters((4,), (6, 2))
    optimizer = opt.make(params)
    optimizers.give_grads(0, params)
    optimizer.step()
    before = params[0].detach().clone()
    params[1].grad = params[1].detach().to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(params[0], before)


@ONE
def test_wrong_state_is_an_error(opt):
    params = optimizers.parameters((4, 3))
    optimizer = opt.make(params)
    optimizers.give_grads(0, params)
    optimizer.step()
    optimizer.state[params[0]]["exp_avg"] = torch.zeros(3, 4)
    with pytest.raises(RuntimeError):
        optimizer.step()


@ONE
def test_step_counts_of_another_dtype(opt):
    """A run under a float64 default leaves float64 step counts."""
    params = optimizers.parameters((4, 3))
    twins = optimizers.twins_of(params)
    both = [opt.make(params), opt.plain(twins)]
    optimizers.run_together(both, [params, twins], 1)
    for optimizer in both:
        for state in optimizer.state.values():
            state["step"] = state["step"].double()
    optimizers.run_together(both, [params, twins], 3, 1)
    optimizers.assert_together(params, twins, 4)
    assert both[0].state[params[0]]["step"].item() == 4
