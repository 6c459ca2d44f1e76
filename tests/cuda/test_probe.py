"""What common/cuda*.cuh promises, on the GPU or in the emulation, and the faults that the latter finds."""

import pytest
import torch

from fastmodel import env
from fastmodel.ops.native import GPU_DTYPE_CODES, stream

from .conftest import IS_GPU_HERE


def test_a_block_sums(device):
    x = torch.randint(-8, 9, (5, 96), device=device).float()
    sums = torch.empty(5, device=device)
    env.cuda().probe_block_sum_cuda(x.data_ptr(), 5, sums.data_ptr(), stream(x))
    assert torch.equal(sums, x.sum(1))


def test_an_empty_grid_does_nothing(device):
    env.cuda().probe_block_sum_cuda(0, 0, 0, stream(torch.empty(0, device=device)))


def test_a_warp_speaks(device):
    x = torch.randperm(32, device=device, dtype=torch.int32) * 3 - 40
    out = torch.empty(6, 32, dtype=torch.int32, device=device)
    env.cuda().probe_warp_cuda(x.data_ptr(), out.data_ptr(), stream(x))
    lane = torch.arange(32, device=device)
    assert torch.equal(out[0], x[5].expand(32))
    assert torch.equal(out[1], x[lane ^ 9])
    assert torch.equal(out[2], x[torch.where(lane + 3 < 32, lane + 3, lane)])
    assert torch.equal(out[3], x[torch.where(lane >= 3, lane - 3, lane)])
    assert torch.equal(out[4], (x % 2 != 0).sum().int().expand(32))
    assert torch.equal(out[5], x.max().expand(32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_matrix_product(dtype, device):
    """Small integers: exact in every dtype, so that a fragment laid out wrongly shows."""
    depth = 8 if dtype == torch.float32 else 16
    a = torch.randint(-8, 9, (16, depth), device=device).to(dtype)
    b = torch.randint(-8, 9, (depth, 8), device=device).to(dtype)
    c = torch.empty(16, 8, device=device)
    addresses = a.data_ptr(), b.data_ptr(), c.data_ptr()
    env.cuda().probe_product_cuda(*addresses, GPU_DTYPE_CODES[dtype], stream(a))
    assert torch.equal(c, a.float() @ b.float())


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(1 + 2**-11, 1 + 2**-10), (-1 - 2**-11, -1 - 2**-10), (1 + 2**-12, 1.0), (3.0e-39, 0.0)],
)
def test_tf32_is_rounded_to_nearest_and_ties_away_from_zero(value, rounded, device):
    a, b = torch.zeros(16, 8, device=device), torch.zeros(8, 8, device=device)
    a[3, 5], b[5, 2] = value, 1.0
    c = torch.empty(16, 8, device=device)
    env.cuda().probe_product_cuda(a.data_ptr(), b.data_ptr(), c.data_ptr(), 0, stream(a))
    assert c[3, 2].item() == pytest.approx(rounded, rel=0, abs=1e-38)
    assert c.count_nonzero() <= 1


@pytest.mark.parametrize(("count", "inside"), [(256, 256), (100, 37), (1, 0)])
def test_an_asynchronous_copy(count, inside, device):
    x, y = torch.rand(count, device=device), torch.empty(count, device=device)
    env.cuda().probe_reverse_cuda(x.data_ptr(), y.data_ptr(), count, inside, stream(x))
    expected = torch.where(torch.arange(count, device=device) < inside, x, 0).flip(0)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounding_as_pytorch_rounds(dtype, device):
    """Over every exponent, ties, the edges of the range, infinities and NaN."""
    bits = torch.randint(-(2**31), 2**31 - 1, (2**14,), dtype=torch.int32)
    ties = (bits & ~0x1FFF) | 0x1000
    special = torch.tensor([0.0, -0.0, 65504, 65519, 65520, 65536, 2**-14, 2**-24, 2**-25, 3e38])
    special = torch.cat([special, torch.tensor([float("inf"), float("-inf"), float("nan")])])
    special = torch.cat([special, torch.zeros(-special.numel() % 128)])
    scaled = torch.randn(2**14) * torch.exp2(torch.randint(-28, 17, (2**14,)))
    x = torch.cat([bits.view(torch.float32), ties.view(torch.float32), special, scaled]).to(device)
    y = torch.empty_like(x)
    addresses = x.data_ptr(), y.data_ptr()
    env.cuda().probe_round_cuda(*addresses, x.numel(), GPU_DTYPE_CODES[dtype], stream(x))
    torch.testing.assert_close(y, x.to(dtype).float(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(y.signbit() & (y == y), x.signbit() & (y == y))


FAULTS = {
    "divergent_barrier": r"some threads never come to the .* where others wait",
    "divergent_collectives": r"lanes of one warp are in different collectives",
    "partial_warp": r"a warp's collective wants all 32 lanes",
    "shared_index": r"index 256 of a shared array of 256; thread \(255, 0, 0\) of block \(0, 0, 0\)",
    "shared_overrun": r"wrote beyond shared memory",
    "misaligned": r"an address is no multiple of 16",
}


def run_fault(fault: str, blocks: int = 1) -> bool:
    """Does the kernel with this fault give the right answer?"""
    x, y = torch.rand(256 + 4), torch.zeros(256)
    kind = getattr(env.cuda().CudaFault, fault)
    env.cuda().probe_fault_cuda(kind, x.data_ptr(), y.data_ptr(), blocks, stream(x))
    return torch.equal(y, x[:256].flip(0))


@pytest.mark.skipif(IS_GPU_HERE, reason="the emulation alone finds these faults")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_launch(fault):
    with pytest.raises(RuntimeError, match=f"^probe: running a kernel failed: .*({FAULTS[fault]})"):
        run_fault(fault)
    assert run_fault("none"), "the next launch is sound"


@pytest.mark.skipif(IS_GPU_HERE, reason="the emulation alone finds these faults")
@pytest.mark.parametrize("fault", ["missing_barrier", "missing_wait"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_fault_shows_in_the_numbers(fault, blocks):
    assert not run_fault(fault, blocks)
    assert run_fault("none", blocks)


@pytest.mark.skipif(IS_GPU_HERE, reason="the emulation alone finds these faults")
def test_threads_take_turns_in_either_order():
    """Threads that look at what those before them wrote are right by luck, but not in every second block."""
    x, y = torch.rand(256), torch.zeros(256)
    fault = env.cuda().CudaFault.missing_barrier_behind
    env.cuda().probe_fault_cuda(fault, x.data_ptr(), y.data_ptr(), 1, stream(x))
    assert (y == x[0]).all()
    env.cuda().probe_fault_cuda(fault, x.data_ptr(), y.data_ptr(), 2, stream(x))
    assert y[0] == x[0] and y[1:].isnan().all()
