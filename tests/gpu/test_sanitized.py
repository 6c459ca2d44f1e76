"""A few calls of every CUDA kernel, short enough for compute-sanitizer, which slows them tens of times."""

import function_races
import pytest
import torch
from support import gpu, gpu_ops
from torch import nn

import fastmodel as fm

gpu.require()

OPS = gpu_ops.ops_with("cuda")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_op(op, dtype):
    """Of the cases, one of odd sizes and the last."""
    subject = gpu_ops.op_under_test(op, gpu.DEVICE)
    cases = [case for case in subject.test_cases if case.flops]
    for case in (cases[1], cases[-1]):
        try:
            with fm.use_backend("cuda"):
                function_races.answer(op, case.make(dtype))
        except fm.errors.BackendError as error:
            pytest.skip(str(error))


@pytest.mark.parametrize("kind", [fm.optim.AdamW, fm.optim.SGD])
def test_an_optimizer(kind):
    params = [nn.Parameter(torch.randn(size, device=gpu.DEVICE)) for size in (1, 1023, 65_537)]
    optimizer = kind(params, lr=0.1, max_grad_norm=1.0)
    for param in params:
        param.grad = torch.randn_like(param)
    for _ in range(2):
        optimizer.step()
    assert all(param.isfinite().all() for param in params)
