"""fm.optim.SGD on the CUDA kernel against torch.optim's for-loop in float64."""

import pytest
import torch
from support import optim_clipping, optim_layouts, optim_life, optim_numbers, optim_wide, optimizers
from support.optimizers import LR, OptimizerUnderTest

import fastmodel as fm
from fastmodel.ops.sgd.cases import CASES

FULL = {"momentum": 0.9, "weight_decay": 0.1}
SGD = OptimizerUnderTest(fm.optim.SGD, torch.optim.SGD, FULL)

SMALL = [case for case in CASES if not case.is_bench]
VARIANTS = {
    "plain": {},
    "maximize": {"maximize": True, "weight_decay": 0.1},
    "dampening": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov-maximize": {"momentum": 0.8, "nesterov": True, "maximize": True},
}
VARIANT = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
LOW = (torch.bfloat16, torch.float16)
GPU_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=str)
BY = pytest.mark.parametrize("backend", ["cuda", "reference"])


@pytest.fixture(autouse=True)
def by_cuda(device):
    torch.set_default_device(device)
    with fm.use_backend("cuda"):
        yield
    torch.set_default_device(None)


@VARIANT
@GPU_DTYPES
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_one_step(case, dtype, options):
    optim_numbers.check_one_step(SGD, case, options, "cuda", dtype)


@VARIANT
def test_long_run(options):
    optim_numbers.check_long_run(SGD, options)


@GPU_DTYPES
@pytest.mark.parametrize("layout", optim_layouts.LAYOUTS)
@pytest.mark.parametrize("options", [{}, FULL], ids=["plain", "momentum"])
def test_layout(layout, options, dtype):
    optim_layouts.check_layout(SGD, layout, options, dtype)


@VARIANT
def test_special_gradients(options):
    optim_numbers.check_special_gradients(SGD, options)


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_grad_norm(max_grad_norm, dtype):
    optim_clipping.check_max_grad_norm(SGD, max_grad_norm, dtype)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_grad_scaler(is_fused, max_grad_norm, device):
    optim_clipping.check_grad_scaler(SGD, is_fused, max_grad_norm, device)


def test_clip_special():
    optim_clipping.check_clip_special(SGD)


def test_lr_on_the_device(device):
    lr = torch.tensor(LR, device=device)
    params = optimizers.parameters((20,), (5,))
    wide = optimizers.twins_of(params, torch.float64)
    ours, oracle = SGD.make(params, lr=lr, **FULL), SGD.plain(wide, **FULL)
    optimizers.run_together([ours, oracle], [params, wide], 2)
    lr.fill_(LR / 4)
    oracle.param_groups[0]["lr"] = LR / 4
    optimizers.run_together([ours, oracle], [params, wide], 2, 2)
    optimizers.assert_together(params, wide, 4)


@pytest.mark.parametrize("count", [40, 41, 600, 601])
def test_many_tensors(count):
    """At the edges of what one launch holds; some take their first step beside others' second."""
    params = optimizers.parameters(*[(1 + i % 5,) for i in range(count)])
    wide = optimizers.twins_of(params, torch.float64)
    ours, oracle = SGD.make(params, **FULL), SGD.plain(wide, **FULL)
    for step in range(2):
        optimizers.give_grads(step, params, wide)
        for model in (params, wide):
            for p in model[::5] if step == 0 else []:
                p.grad = None
        ours.step()
        oracle.step()
    optimizers.assert_together(params, wide, 2)


@pytest.mark.parametrize(
    "check",
    [
        optim_layouts.check_resumed_across_layouts,
        optim_numbers.check_shared_memory,
        optim_life.check_reassigned,
        optim_life.check_life_of_a_loop,
        optim_wide.check_beside_float32,
        optim_wide.check_float64,
        optim_wide.check_errors,
        optim_wide.check_refused_elsewhere,
    ],
)
def test_semantics(check):
    check(SGD)


STATES = ("momentum_buffer", "master_param", "ema_param")


@pytest.mark.parametrize("key", STATES)
def test_a_state_that_is_not_aligned(key):
    """Packs are taken where every array of the tensor has them aligned."""
    optim_wide.check_unaligned_state(SGD, key, STATES)


@BY
@pytest.mark.parametrize("dtype", LOW, ids=str)
@VARIANT
def test_master_weights(options, dtype, backend):
    optim_wide.check_master_weights(SGD, options, dtype, backend)


@BY
@GPU_DTYPES
@pytest.mark.parametrize("options", [{}, FULL], ids=["plain", "momentum"])
def test_averages(options, dtype, backend):
    optim_wide.check_averages(SGD, options, dtype, backend)


@pytest.mark.parametrize("options", optim_wide.EXTRAS, ids=str)
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_wide_states_are_saved_whole(options, momentum, tmp_path):
    optim_wide.check_saved_whole(SGD, {**options, "momentum": momentum}, tmp_path)


def test_a_checkpoint_whose_buffers_are_none():
    """As older PyTorch saved a run without momentum."""
    params = optimizers.parameters((4,), dtype=torch.bfloat16)
    ours = SGD.make(params, master_weights=True)
    saved = {
        "state": {0: {"momentum_buffer": None}},
        "param_groups": ours.state_dict()["param_groups"],
    }
    ours.load_state_dict(saved)
    optimizers.run_together([ours], [params], 1)
    assert torch.equal(params[0], ours.state[params[0]]["master_param"].bfloat16())


def test_a_first_step_left_out_leaves_no_buffer():
    params = optimizers.parameters((4,))
    before = params[0].detach().clone()
    optimizer = SGD.make(params, fused=True, **FULL)
    optimizers.give_grads(0, params)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(params[0], before)
    assert optimizer.state[params[0]].get("momentum_buffer") is None
