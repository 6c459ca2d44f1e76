"""fm.optim.Adam and AdamW on the CUDA kernel against torch.optim's for-loop in float64."""

import pytest
import torch
from support import optim_clipping, optim_layouts, optim_life, optim_numbers, optim_wide, optimizers
from support.optimizers import LR, OptimizerUnderTest

import fastmodel as fm
from fastmodel.ops.adam.cases import CASES

FULL = {"amsgrad": True, "weight_decay": 0.1}
ADAM = OptimizerUnderTest(fm.optim.Adam, torch.optim.Adam, FULL)
ADAMW = OptimizerUnderTest(fm.optim.AdamW, torch.optim.AdamW, FULL)
BOTH = pytest.mark.parametrize("opt", [ADAM, ADAMW], ids=str)

LOW = (torch.bfloat16, torch.float16)
LOW_DTYPES = pytest.mark.parametrize("dtype", LOW, ids=str)
GPU_DTYPES = pytest.mark.parametrize("dtype", (torch.float32, *LOW), ids=str)
BY = pytest.mark.parametrize("backend", ["cuda", "reference"])
VARIANTS = {
    "adam": (ADAM, {}),
    "adam-amsgrad-l2-maximize": (ADAM, {**FULL, "maximize": True}),
    "adam-betas": (ADAM, {"betas": (0.3, 0.7), "eps": 1e-3, "amsgrad": True}),
    "adamw-fused": (ADAMW, {"fused": True}),
}
VARIANT = pytest.mark.parametrize(("opt", "options"), VARIANTS.values(), ids=VARIANTS.keys())
SMALL = [case for case in CASES if not case.is_bench]


@pytest.fixture(autouse=True)
def by_cuda(device):
    torch.set_default_device(device)
    with fm.use_backend("cuda"):
        yield
    torch.set_default_device(None)


class Plain(OptimizerUnderTest):
    """PyTorch's for-loop takes no fused=True."""

    def plain(self, params, **options):
        return super().plain(params, **{k: v for k, v in options.items() if k != "fused"})


def under(opt) -> Plain:
    return Plain(opt.ours, opt.theirs, opt.full)


@VARIANT
@GPU_DTYPES
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_one_step(case, dtype, opt, options):
    optim_numbers.check_one_step(under(opt), case, options, "cuda", dtype)


@VARIANT
def test_long_run(opt, options):
    optim_numbers.check_long_run(under(opt), options)


@GPU_DTYPES
@pytest.mark.parametrize("layout", optim_layouts.LAYOUTS)
def test_layout(layout, dtype):
    optim_layouts.check_layout(ADAM, layout, FULL, dtype)


@VARIANT
def test_special_gradients(opt, options):
    optim_numbers.check_special_gradients(under(opt), options)


@BOTH
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_grad_norm(opt, max_grad_norm, dtype):
    optim_clipping.check_max_grad_norm(opt, max_grad_norm, dtype)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
def test_grad_scaler(is_fused, max_grad_norm, device):
    optim_clipping.check_grad_scaler(ADAM, is_fused, max_grad_norm, device)


@pytest.mark.parametrize("layout", ["channels_last, contiguous gradient", "misaligned"])
def test_scaled_gradients_of_any_layout(layout):
    """Unscaled in place, as by PyTorch's fused step; left alone where the step is left out."""
    place, place_grad = optim_layouts.LAYOUTS[layout]
    for found in (0.0, 1.0):
        params = [torch.nn.Parameter(place(optimizers.randn(0, *optimizers.SHAPE))[0])]
        before = params[0].detach().clone()
        scaled = optimizers.randn(1, *optimizers.SHAPE)
        params[0].grad = place_grad(scaled.clone())
        optimizer = ADAM.make(params, fused=True)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(found)
        optimizer.step()
        assert torch.equal(params[0].grad, scaled if found else scaled / 8)
        assert optimizer.state[params[0]]["step"].item() == 1 - found
        assert torch.equal(params[0], before) == bool(found)


def test_clip_sweep():
    optim_clipping.check_clip_special(ADAM)


@pytest.mark.parametrize(
    "lr", [LR, torch.tensor(LR), torch.tensor([LR], dtype=torch.float64)], ids=str
)
@pytest.mark.parametrize("capturable", [False, True])
def test_lr_and_counts_on_the_device(lr, capturable, device):
    """A capturable step reads both there: what changes between two replays of a graph is seen."""
    params = optimizers.parameters((20,), (5,))
    wide = optimizers.twins_of(params, torch.float64)
    lr = lr.to(device, copy=True) if isinstance(lr, torch.Tensor) else lr
    ours, oracle = ADAM.make(params, lr=lr, capturable=capturable), ADAM.plain(wide)
    for step in range(6):
        optimizers.give_grads(step, params, wide)
        for optimizer in (ours, oracle):
            if isinstance(lr, torch.Tensor) and step == 3:
                if optimizer is ours:
                    lr.fill_(LR / 4)
                optimizer.param_groups[0]["lr"] = lr if optimizer is ours else LR / 4
            optimizer.step()
    assert ours.state[params[0]]["step"].item() == 6
    optimizers.assert_together(params, wide, 6)


@pytest.mark.parametrize("count", [1, 40, 41, 384, 385])
@pytest.mark.parametrize("fused", [None, True], ids=["counts here", "counts there"])
def test_many_tensors(count, fused):
    """At the edges of what one launch holds; each parameter has a step count of its own."""
    shapes = [(1 + i % 5,) for i in range(count)]
    params = optimizers.parameters(*shapes)
    wide = optimizers.twins_of(params, torch.float64)
    ours, oracle = ADAM.make(params, fused=fused), ADAM.plain(wide)
    for step in range(3):
        optimizers.give_grads(step, params, wide)
        if step == 1:  # every third falls one step behind
            for model in (params, wide):
                for p in model[::3]:
                    p.grad = None
        ours.step()
        oracle.step()
    optimizers.assert_together(params, wide, 3)
    counts = [ours.state[p]["step"].item() for p in params]
    assert counts == [2 if i % 3 == 0 else 3 for i in range(count)]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("size", [255 * 4, 1023, 1024, 1025, 4 * 1024 + 3, 16_385])
def test_chunk_edges(size, offset):
    """Nothing around a parameter is written, and all of it is; aligned and not."""
    buffers = [torch.full((size + 8,), 7.0) for _ in range(2)]
    params = [torch.nn.Parameter(b[offset + 4 : offset + 4 + size]) for b in buffers]
    with torch.no_grad():
        for i, p in enumerate(params):
            p.copy_(optimizers.randn(i, size))
    wide = optimizers.twins_of(params, torch.float64)
    optimizers.run_together([ADAM.make(params), ADAM.plain(wide)], [params, wide], 2)
    optimizers.assert_together(params, wide, 2)
    for buffer in buffers:
        assert (buffer[: offset + 4] == 7).all() and (buffer[offset + 4 + size :] == 7).all()


STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "master_param", "ema_param")


@pytest.mark.parametrize("key", STATES)
def test_a_state_that_is_not_aligned(key):
    """Packs are taken where every array of the tensor has them aligned."""
    optim_wide.check_unaligned_state(ADAM, key, STATES)


@BY
@LOW_DTYPES
@pytest.mark.parametrize("options", [{}, FULL], ids=["plain", "full"])
def test_master_weights(options, dtype, backend):
    optim_wide.check_master_weights(ADAMW, options, dtype, backend)


@BY
@GPU_DTYPES
def test_averages(dtype, backend):
    optim_wide.check_averages(ADAMW, {}, dtype, backend)


@BY
@LOW_DTYPES
def test_float32_moments(dtype, backend):
    """They are those of a float64 run to float32's rounding, whatever the parameters are rounded to."""
    params = optimizers.parameters(*optim_wide.SHAPES, dtype=dtype)
    wide, _, oracle = optim_wide.run_wide(ADAMW, params, 5)
    ours = ADAMW.make(params, state_dtype=torch.float32)
    with fm.use_backend(backend):
        optimizers.run_together([ours], [params], 5)
    for p, q in zip(params, wide, strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            assert ours.state[p][key].dtype == torch.float32
            optimizers.assert_near(ours.state[p][key], oracle.state[q][key], torch.float32, 12, key)
    optimizers.assert_together(params, wide, 5, dtype)


@pytest.mark.parametrize("options", [*optim_wide.EXTRAS, {"state_dtype": torch.float32}], ids=str)
def test_wide_states_are_saved_whole(options, tmp_path):
    optim_wide.check_saved_whole(ADAMW, options, tmp_path)


@BOTH
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
def test_semantics(opt, check):
    check(opt)


def test_without_exchange_api(monkeypatch):
    monkeypatch.setattr(optim_layouts.tensor_table, "_EXCHANGE_API", None)
    params = optimizers.parameters((33,), (0, 2), (), dtype=torch.float16)
    wide, _, _ = optim_wide.run_wide(ADAMW, params, 3)
    ours = ADAMW.make(params, master_weights=True, fused=True)
    optimizers.run_together([ours], [params], 3)
    optimizers.assert_together([ours.state[p]["master_param"] for p in params], wide, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"state_dtype": torch.bfloat16}, "bfloat16 moments, rounded at random, are the CPU's"),
        ({"foreach": True}, "foreach=, or fused=False, asks for one of PyTorch's"),
        ({"differentiable": True}, "differentiable steps"),
    ],
)
def test_what_the_kernel_does_not_take(options, words):
    params = optimizers.parameters((4,))
    optimizers.give_grads(0, params)
    before = params[0].detach().clone()
    with pytest.raises(fm.errors.BackendError, match=words):
        ADAM.make(params, **options).step()
    assert torch.equal(params[0], before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"master_weights": True, "state_dtype": torch.bfloat16},
            "Adam: master_weights= keeps its",
        ),
        (
            {"ema_decay": 0.5, "state_dtype": torch.bfloat16},
            "Adam: ema_decay= keeps its state in f",
        ),
        ({"state_dtype": torch.float16}, "Adam: state_dtype is torch.float16; pass torch.bfloat16"),
        (
            {"state_dtype": torch.bfloat16, "capturable": True},
            "Adam: capturable= .* no state_dtype",
        ),
    ],
)
def test_errors(options, words):
    with pytest.raises(fm.errors.InputError, match=words):
        fm.optim.Adam(optimizers.parameters((4,)), **options)
