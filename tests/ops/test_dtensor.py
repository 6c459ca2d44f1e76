"""The optimizers on DTensors: their kernels step this process's shards."""

import pytest
import torch
import torch.distributed as dist
from support import optimizers
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import fastmodel as fm


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def model(mesh, placement):
    values = optimizers.parameters((6, 5), (8,))
    params = [
        nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [placement])) for p in values
    ]
    return params, values


def run(optimizer, oracle, params, twins, mesh, steps, start=0):
    for step in range(start, start + steps):
        optimizers.give_grads(step, twins)
        for p, q in zip(params, twins, strict=True):
            p.grad = distribute_tensor(q.grad.clone(), mesh, p.placements)
        optimizer.step()
        oracle.step()
    optimizers.assert_together([p.full_tensor() for p in params], twins, start + steps)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("placement", [Shard(0), Replicate()], ids=str)
def test_adam_steps_shards(mesh, placement, backend, monkeypatch):
    if backend == "cuda":
        monkeypatch.setenv("FASTMODEL_CUDA_EMULATE", "1")
        if fm.env.cuda_missing() is not None:
            pytest.skip(fm.env.cuda_missing())
    params, twins = model(mesh, placement)
    optimizer, oracle = fm.optim.AdamW(params), torch.optim.AdamW(twins, foreach=False)
    with fm.use_backend(backend):
        run(optimizer, oracle, params, twins, mesh, 3)
    assert all(isinstance(optimizer.state[p]["exp_avg"], DTensor) for p in params)
    assert all(optimizer.state[p]["step"].item() == 3 for p in params)


def test_sgd_steps_shards_once_there_are_buffers(mesh):
    params, twins = model(mesh, Shard(0))
    options = {"lr": 0.1, "momentum": 0.9}
    optimizer, oracle = fm.optim.SGD(params, **options), torch.optim.SGD(twins, **options)
    run(optimizer, oracle, params, twins, mesh, 1)
    with fm.use_backend("cpu"):
        run(optimizer, oracle, params, twins, mesh, 2, 1)
    assert all(isinstance(optimizer.state[p]["momentum_buffer"], DTensor) for p in params)


def test_a_norm_over_shards_is_pytorchs(mesh):
    params, twins = model(mesh, Shard(0))
    optimizer = fm.optim.AdamW(params, max_grad_norm=0.5)
    oracle = torch.optim.AdamW(twins, foreach=False)
    oracle.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(twins, 0.5) and None)
    run(optimizer, oracle, params, twins, mesh, 3)
