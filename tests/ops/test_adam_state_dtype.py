"""fm.optim.Adam with bfloat16 moments: the rounding, its bits, checkpoints, and where training ends."""

import copy
import pickle

import pytest
import torch
from support import optimizers
from support.optimizers import LR

import fastmodel as fm
from fastmodel.ops.stochastic_rounding import philox, random_bits

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
BOTH = pytest.mark.parametrize("make", [fm.optim.Adam, fm.optim.AdamW])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def optimizer_of(params, **options):
    return fm.optim.Adam(params, **{"lr": LR, "state_dtype": torch.bfloat16, **options})


def steps(params, count=1, start=0, seed=0, **options):
    """An optimizer after `count` steps."""
    torch.manual_seed(seed)
    optimizer = optimizer_of(params, **options)
    optimizers.run_together([optimizer], [params], count, start)
    return optimizer


def moments(optimizer) -> list[torch.Tensor]:
    return [s[key] for s in optimizer.state.values() for key in MOMENTS if key in s]


def test_philox_as_published():
    """The known answers of the authors' Random123 library for philox4x32-7."""

    def words(counter, key):
        found = philox(tuple(torch.tensor([c]) for c in counter), key)
        return [f"{word.item():08x}" for word in found]

    ones = 0xFFFFFFFF
    assert words((0, 0, 0, 0), 0) == ["5f6fb709", "0d893f64", "4f121f81", "4f730a48"]
    assert words((ones,) * 4, ones << 32 | ones) == ["5207ddc2", "45165e59", "4d8ee751", "8c52f662"]


def test_random_bits_are_uniform_and_differ():
    """Mean and variance of 2^16 draws within 5 deviations; another counter or key has other bits."""
    like = torch.empty(1 << 16)
    low = (random_bits(like, 3, 7, 11) & 0xFFFF).double() / 65536
    assert abs(low.mean() - 0.5) < 5 * (1 / 12 / low.numel()) ** 0.5
    assert abs(low.var() - 1 / 12) < 5 * (1 / 180 / low.numel()) ** 0.5
    for other in ((4, 7, 11), (3, 8, 11), (3, 7, 12), (3, 7, 11 + (1 << 32))):
        # Equal by chance at about 1 of 2^16 draws.
        assert ((random_bits(like, *other) & 0xFFFF).double() / 65536 == low).sum() < 20


@DTYPES
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
        {"decoupled_weight_decay": True, "weight_decay": 0.1},
    ],
    ids=["plain", "amsgrad-l2-maximize", "decoupled"],
)
def test_kernel_as_reference(dtype, options):
    """The same bits, but where float32's last bits carry the sum over an edge: a unit then, and rarely."""
    shapes = ((1,), (63,), (64,), (65,), (16_385,), (300, 7), (0,), ())
    found = []
    for backend in ("cpu", "reference"):
        params = optimizers.parameters(*shapes, dtype=dtype)
        with fm.use_backend(backend):
            found.append((params, moments(steps(params, 3, **options))))
    (params, ours), (twins, expected) = found
    differing = sum((a != b).sum().item() for a, b in zip(ours, expected, strict=True))
    total = sum(a.numel() for a in ours)
    # Chance of a flip: a few float32 units (2^-24) of the bfloat16 unit (2^-8), over 3 steps.
    assert differing <= max(3, total * 3 * 8 * 2**-16)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=2**-7, atol=1e-6)
    roundings = 4 if dtype == torch.float32 else 2
    for p, q in zip(params, twins, strict=True):
        eps = torch.finfo(dtype).eps
        # A flipped moment is off by 2^-7 of itself, and the next step by as much of LR.
        torch.testing.assert_close(p, q, rtol=roundings * eps, atol=LR * 2**-6)


def test_rounding_is_unbiased():
    """Over many elements with one gradient, the mean moment is the exact one, unlike to nearest."""
    count = 1 << 18
    params = [torch.nn.Parameter(torch.zeros(count))]
    params[0].grad = torch.full((count,), 0.7)
    torch.manual_seed(0)
    optimizer = optimizer_of(params)
    first = second = 0.0
    for _ in range(5):
        optimizer.step()
        first, second = 0.9 * first + 0.1 * 0.7, 0.999 * second + 0.001 * 0.7**2
    for key, exact in (("exp_avg", first), ("exp_avg_sq", second)):
        values = optimizer.state[params[0]][key].double()
        # A rounding deviates by at most half a unit, 2^-8 of the value; five of them add up.
        deviation = exact * 2**-8 * (5 / count) ** 0.5
        assert abs(values.mean() - exact) < 5 * deviation
        assert len(values.unique()) > 1
        nearest = torch.tensor(0.0, dtype=torch.bfloat16)
        for _ in range(5):
            beta, new = (0.9, 0.07) if key == "exp_avg" else (0.999, 0.00049)
            nearest = (nearest.double() * beta + new).bfloat16()
        assert abs(nearest.double() - exact) > 5 * deviation


def test_second_moment_does_not_stall():
    """Where the gradient grows tenfold, rounding to nearest keeps exp_avg_sq at a fraction; this follows."""
    params = [torch.nn.Parameter(torch.zeros(4096))]
    torch.manual_seed(0)
    optimizer = optimizer_of(params)
    nearest, exact = torch.zeros(1).bfloat16(), 0.0
    for _ in range(400):
        params[0].grad = torch.ones(4096)
        optimizer.step()
        nearest = (nearest.float() * 0.999 + 0.001).bfloat16()
        exact = 0.999 * exact + 0.001
    found = optimizer.state[params[0]]["exp_avg_sq"].double().mean().item()
    # 400 roundings of at most 2^-8 each, over 4096 elements, are 2^-8 * sqrt(400 / 4096): 0.12 %.
    assert abs(found / exact - 1) < 0.006
    assert nearest.item() < 0.8 * exact


def test_bits_follow_the_seed_not_the_threads():
    shapes = ((40_000,), (7,), (30_000,))
    before = torch.get_num_threads()
    found = []
    try:
        for threads, seed in ((1, 0), (2, 0), (3, 0), (2, 1)):
            torch.set_num_threads(threads)
            params = optimizers.parameters(*shapes)
            found.append(moments(steps(params, 2, seed=seed)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:3]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert not torch.equal(found[0][0], found[3][0])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    steps(optimizers.parameters((9,)), 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_and_groups_have_bits_of_their_own():
    """Equal parameters with equal gradients, in two groups; one without gradient keeps its place."""
    params = [torch.nn.Parameter(torch.ones(5000)) for _ in range(3)]
    optimizer = optimizer_of([{"params": params[:1]}, {"params": params[1:]}])
    for p in params:
        p.grad = torch.full((5000,), 0.3)
    params[1].grad = None
    optimizer.step()
    a, b = (optimizer.state[params[i]]["exp_avg"] for i in (0, 2))
    assert not torch.equal(a, b)
    torch.manual_seed(torch.initial_seed())
    other = [torch.nn.Parameter(torch.ones(5000)) for _ in range(3)]
    for p in other:
        p.grad = torch.full((5000,), 0.3)
    again = optimizer_of(other)
    again.step()
    assert torch.equal(again.state[other[2]]["exp_avg"], b)


@BOTH
def test_checkpoint(make, tmp_path):
    """A run goes on from its checkpoint bit by bit; PyTorch's loads into it, and it into PyTorch's."""
    torch.manual_seed(5)
    params = optimizers.parameters((40, 3), (17,))
    whole = make(params, lr=LR, state_dtype=torch.bfloat16)
    optimizers.run_together([whole], [params], 3)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    twins = optimizers.twins_of(params)
    resumed = make(twins, lr=LR, state_dtype=torch.bfloat16)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    clones = [pickle.loads(pickle.dumps((params, whole))), copy.deepcopy((params, whole))]
    optimizers.run_together([whole, resumed], [params, twins], 3, 3)
    for cloned, clone in clones:
        optimizers.run_together([clone], [cloned], 3, 3)
        assert all(torch.equal(p, q) for p, q in zip(params, cloned, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    assert {m.dtype for m in moments(resumed)} == {torch.bfloat16}
    theirs = getattr(torch.optim, make.__name__)(params, lr=LR)
    theirs.load_state_dict(whole.state_dict())
    assert {m.dtype for m in moments(theirs)} == {torch.float32}
    optimizers.run_together([theirs], [params], 1, 6)
    resumed.load_state_dict(theirs.state_dict())
    assert {m.dtype for m in moments(resumed)} == {torch.bfloat16}
    assert (
        whole.state_dict()["param_groups"][0].keys()
        == theirs.state_dict()["param_groups"][0].keys()
    )


def trained(make) -> float:
    """The loss of a small network after 50 steps on a fixed regression problem."""
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    y = torch.sin(x @ torch.randn(16, 4))
    net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
    optimizer = make(net.parameters())
    for _ in range(50):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_converges_as_with_float32_moments():
    """Steps differ by 2^-8 of their length at random, and the losses after 50 of them by under 2 %."""
    expected = trained(lambda params: torch.optim.Adam(params, lr=1e-2))
    found = trained(lambda params: fm.optim.Adam(params, lr=1e-2, state_dtype=torch.bfloat16))
    assert found == pytest.approx(expected, rel=0.02)
    assert expected < 0.3


@DTYPES
def test_layouts_and_other_dtypes(dtype):
    """Strided views are staged, and float64 parameters served by the reference, all with bfloat16 moments."""
    values = optimizers.randn(0, 4, 3, 5, 2)
    places = [
        values.to(dtype).to(memory_format=torch.channels_last),
        values.to(dtype).repeat(1, 2, 1, 1)[:, ::2],
        values.double(),
    ]
    params = [torch.nn.Parameter(place) for place in places]
    wide = [torch.nn.Parameter(p.detach().double().contiguous()) for p in params]
    ours, plain = optimizer_of(params), torch.optim.Adam(wide, lr=LR, foreach=False)
    optimizers.run_together([ours, plain], [params, wide], 3)
    assert {m.dtype for m in moments(ours)} == {torch.bfloat16}
    for p, q in zip(params, wide, strict=True):
        bound = 3 * LR * 2**-6 + (3 * torch.finfo(dtype).eps * 4)
        torch.testing.assert_close(p.double(), q, rtol=0, atol=bound)


def test_special_values():
    """NaN and infinity in the gradient reach the moments as in float32."""
    params = [torch.nn.Parameter(torch.ones(20))]
    twins = optimizers.twins_of(params)
    ours, plain = optimizer_of(params), torch.optim.Adam(twins, lr=LR, foreach=False)
    for model in (params, twins):
        model[0].grad = torch.zeros(20)
        model[0].grad[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    ours.step()
    plain.step()
    for key in ("exp_avg", "exp_avg_sq"):
        a, b = ours.state[params[0]][key].float(), plain.state[twins[0]][key]
        torch.testing.assert_close(a, b, equal_nan=True, rtol=2**-7, atol=0)
    # Negative NaN with every bit set: adding to it must not carry into the sign.
    params[0].grad = torch.full((20,), -1, dtype=torch.int32).view(torch.float32)
    ours.step()
    assert ours.state[params[0]]["exp_avg"].isnan().all()


def test_clip_and_scaler():
    params = optimizers.parameters((50,), (3, 3))
    twins = optimizers.twins_of(params)
    both = [optimizer_of(params, max_grad_norm=0.5, fused=True), optimizer_of(twins)]
    optimizers.give_grads(0, params, twins)
    for p in params:
        p.grad *= 1024
    torch.nn.utils.clip_grad_norm_(twins, 0.5)
    both[0].grad_scale, both[0].found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    for optimizer in both:
        optimizer.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_errors():
    params = optimizers.parameters((2,))
    for bad in (torch.float16, torch.float64, "bfloat16"):
        with pytest.raises(
            fm.errors.InputError, match=r"pass torch\.bfloat16, torch\.float32, or None"
        ) as raised:
            optimizer_of(params, state_dtype=bad)
        assert "\n" not in str(raised.value)
    for option in ({"foreach": True}, {"foreach": False}, {"fused": False}, {"capturable": True}):
        with pytest.raises(fm.errors.InputError, match=f"{next(iter(option))}= asks for PyTorch"):
            optimizer_of(params, **option)
    optimizer = optimizer_of(params)
    optimizers.give_grads(0, params)
    with fm.use_backend("library"), pytest.raises(fm.errors.BackendError, match="state_dtype"):
        optimizer.step()
    odd = [torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    odd[0].grad = torch.ones_like(odd[0])
    with pytest.raises(fm.errors.InputError, match="complex"):
        optimizer_of(odd).step()
