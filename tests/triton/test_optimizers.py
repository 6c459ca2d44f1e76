"""fm.optim's steps in Triton, over the checks of every backend."""

import pytest
import torch
from support import optim_clipping, optim_layouts, optim_numbers, optimizers
from support.optimizers import OptimizerUnderTest

import fastmodel as fm
from fastmodel.ops.adam.cases import CASES
from fastmodel.ops.adam.triton_kernel import corrections
from fastmodel.ops.batch import Batch
from fastmodel.ops.triton_tensor_list import uniform

FULL = {"amsgrad": True, "weight_decay": 0.1}
ADAM = OptimizerUnderTest(fm.optim.Adam, torch.optim.Adam, FULL)
ADAMW = OptimizerUnderTest(fm.optim.AdamW, torch.optim.AdamW, FULL)
MOMENTUM = {"momentum": 0.9, "weight_decay": 0.1}
SGD = OptimizerUnderTest(fm.optim.SGD, torch.optim.SGD, MOMENTUM)

VARIANTS = {
    "adam": (ADAM, {}),
    "adam-l2": (ADAM, {"weight_decay": 0.1}),
    "adam-amsgrad-l2-maximize": (ADAM, {**FULL, "maximize": True}),
    "adam-betas": (ADAM, {"betas": (0.3, 0.7), "eps": 1e-3, "amsgrad": True}),
    "adamw": (ADAMW, {}),
    "adamw-amsgrad-maximize": (ADAMW, {"amsgrad": True, "maximize": True}),
    "sgd": (SGD, {}),
    "sgd-l2-maximize": (SGD, {"weight_decay": 0.1, "maximize": True}),
    "sgd-momentum": (SGD, {**MOMENTUM, "dampening": 0.3}),
    "sgd-nesterov": (SGD, {**MOMENTUM, "nesterov": True}),
}
VARIANT = pytest.mark.parametrize(("opt", "options"), VARIANTS.values(), ids=VARIANTS.keys())
EACH = pytest.mark.parametrize("opt", [ADAM, SGD], ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(autouse=True)
def in_triton():
    with fm.use_backend("triton"):
        yield


@VARIANT
@DTYPES
def test_one_step(opt, options, dtype):
    optim_numbers.check_one_step(opt, BY_NAME["ranks"], options, "triton", dtype)


@EACH
@pytest.mark.parametrize("case", ["empty", "vector-edges"])
def test_one_step_of_odd_sizes(case, opt):
    optim_numbers.check_one_step(opt, BY_NAME[case], opt.full, "triton", torch.float32)


@EACH
def test_tensors_of_several_chunks(opt):
    """One element less and more than the chunk of 4096, and several."""
    params = optimizers.parameters((4095,), (4096,), (4097,), (3, 4097), ())
    wide = optimizers.twins_of(params, torch.float64)
    both = [opt.make(params, **opt.full), opt.plain(wide, **opt.full)]
    optimizers.run_together(both, [params, wide], 3)
    optimizers.assert_together(params, wide, 3)


@EACH
def test_long_run(opt):
    optim_numbers.check_long_run(opt, opt.full)


@pytest.mark.parametrize("layout", optim_layouts.LAYOUTS)
@EACH
def test_layout(opt, layout):
    optim_layouts.check_layout(opt, layout, opt.full, torch.float32)


@VARIANT
def test_special_gradients(opt, options):
    optim_numbers.check_special_gradients(opt, options)


@EACH
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
def test_max_grad_norm(opt, max_grad_norm):
    optim_clipping.check_max_grad_norm(opt, max_grad_norm, torch.float32)


@EACH
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_grad_scaler(opt, max_grad_norm):
    optim_clipping.check_grad_scaler(opt, True, max_grad_norm)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_moments_round_as_the_definition_says(dtype, options):
    """bfloat16 moments, to the last bit but where float32 itself rounds differently."""
    models = [optimizers.parameters((70, 3), (65,), (), dtype=dtype) for _ in range(2)]
    both = [
        fm.optim.Adam(params, lr=optimizers.LR, state_dtype=torch.bfloat16, **options)
        for params in models
    ]
    for step in range(3):
        optimizers.give_grads(step, *models)
        both[0].step()
        with fm.use_backend("reference"):
            both[1].step()
        for p, q in zip(*models, strict=True):
            for key, entry in both[0].state[p].items():
                other = both[1].state[q][key]
                same = (entry == other).double().mean().item()
                assert same > 0.95, (key, same)
                torch.testing.assert_close(entry, other, rtol=2.0**-7, atol=1e-6)


@pytest.mark.parametrize("opt", [ADAM], ids=str)
def test_what_is_left_to_pytorch(opt):
    params = optimizers.parameters((5,), dtype=torch.float64)
    optimizers.give_grads(0, params)
    with pytest.raises(fm.errors.BackendError, match="takes float32 or bfloat16 or float16"):
        opt.make(params).step()
    params = optimizers.parameters((5,))
    optimizers.give_grads(0, params)
    with pytest.raises(fm.errors.BackendError, match="differentiable steps"):
        opt.make(params, differentiable=True).step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_moments_keep_their_digits(dtype):
    """They are those of a float64 run to float32's rounding, whatever the parameters are rounded to."""
    params = optimizers.parameters((5,), (33, 3), dtype=dtype)
    wide = optimizers.twins_of(params, torch.float64)
    ours, oracle = ADAM.make(params, state_dtype=torch.float32), ADAM.plain(wide)
    optimizers.run_together([ours, oracle], [params, wide], 3)
    for p, q in zip(params, wide, strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            assert ours.state[p][key].dtype == torch.float32
            optimizers.assert_near(ours.state[p][key], oracle.state[q][key], torch.float32, 12, key)


def test_corrections_keep_float64s_accuracy():
    steps = torch.tensor([1.0, 2.0, 1000.0], dtype=torch.float64)
    step_sizes, roots = corrections(steps, 0.1, 0.9, 0.999)
    torch.testing.assert_close(roots[0].item(), 0.001**0.5, rtol=1e-7, atol=0)
    torch.testing.assert_close(step_sizes[0].item(), 1.0, rtol=1e-7, atol=0)


def test_batches_are_parted_by_dtype():
    params = [torch.ones(2), torch.ones(3, dtype=torch.bfloat16), torch.ones(4)]
    states = [{"step": i} for i in range(3)]
    batch = Batch({}, params, params[:], states, [5, 6, 7])
    found = [(b.ordinals, b.states, [p.numel() for p in b.params]) for b in uniform([batch])]
    assert found == [([5, 7], [{"step": 0}, {"step": 2}], [2, 4]), ([6], [{"step": 1}], [3])]


@EACH
def test_gradients_of_another_layout_are_unscaled_in_place(opt):
    param = torch.nn.Parameter(optimizers.channels_last(optimizers.randn(0, *optimizers.SHAPE)))
    twin = torch.nn.Parameter(param.detach().contiguous())
    grad = optimizers.randn(1, *optimizers.SHAPE)
    param.grad, twin.grad = 4 * grad, grad.clone()
    ours, plain = opt.make([param], fused=True), opt.plain([twin])
    ours.grad_scale, ours.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    ours.step()
    plain.step()
    assert torch.equal(param.grad, grad)
    optimizers.assert_together([param], [twin], 1)
