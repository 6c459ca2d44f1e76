"""The global norm of gradients over tables, chunks and dtypes, and its clip, on the GPU or emulated."""

import pytest
import torch
from support import optimizers

from fastmodel.ops import grad_norm, tensor_table
from fastmodel.ops.batch import Batch

SHAPES = ((16_385,), (3, 5), (0,), (1,), (1023,), *[(7,)] * 45)


def batch_of(dtype, device, shapes=SHAPES, scale=1.0) -> Batch:
    params = [p.to(device) for p in optimizers.parameters(*shapes, dtype=dtype)]
    grads = [
        (scale * optimizers.randn(100 + i, *s)).to(device, dtype) for i, s in enumerate(shapes)
    ]
    table = tensor_table.read([params, grads], [], range(len(params)), None, is_for_gpu=True)
    assert table is not None
    return Batch({}, params, grads, [], [], is_for_gpu=True, table=table)


def norm_of(*batches: Batch) -> torch.Tensor:
    flat = torch.cat([g.double().flatten() for batch in batches for g in batch.grads])
    return flat.square().sum().sqrt()


@pytest.mark.parametrize("scale", [None, 8.0])
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e3, 1e6])
def test_clip_of_several_tables(max_grad_norm, scale, device):
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    batches = [batch_of(dtype, device) for dtype in dtypes]
    norm = norm_of(*batches)
    if scale is not None:
        norm = norm / scale
        for batch in batches:
            batch.grad_scale = torch.tensor(scale, device=device)
    clip = grad_norm.clip_factor(batches, max_grad_norm)
    expected = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    torch.testing.assert_close(clip.double(), expected, rtol=1e-7, atol=0)
    again = grad_norm.clip_factor(batches, max_grad_norm)
    assert torch.equal(clip, again), "the same bits in every run"


def test_beside_gradients_in_no_table(device):
    """One norm with those that PyTorch sums."""
    inside, outside = (
        batch_of(torch.float32, device),
        batch_of(torch.float32, device, ((9,), (4, 3))),
    )
    outside.table = None
    clip = grad_norm.clip_factor([inside, outside], 0.5)
    expected = 0.5 / (norm_of(inside, outside) + 1e-6)
    torch.testing.assert_close(clip.double(), expected, rtol=1e-6, atol=0)


def test_squares_beyond_float32_and_infinity(device):
    huge = batch_of(torch.float32, device, scale=1e30)
    expected = 1.0 / (norm_of(huge) + 1e-6)
    clip = grad_norm.clip_factor([huge], 1.0)
    torch.testing.assert_close(clip.double(), expected, rtol=1e-6, atol=0)
    huge.grads[1][2, 2] = torch.inf
    assert grad_norm.clip_factor([huge], 1.0).item() == 0.0
    huge.grads[4][1022] = torch.nan
    assert grad_norm.clip_factor([huge], 1.0).isnan().all()


def test_no_gradients_at_all(device):
    assert grad_norm.clip_factor([batch_of(torch.float32, device, ((0,),))], 1.0).item() == 1.0
