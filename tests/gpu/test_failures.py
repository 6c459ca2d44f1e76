"""What fails while a kernel runs is reported at the op that caused it, where FASTMODEL_SYNC=1 asks for it.

In a process of its own: a device that has failed serves its process no more.
"""

import os
import subprocess

import pytest
from support import gpu
from support.processes import script

gpu.require()

CODE = """
import torch
import fastmodel as fm

logits = torch.randn(4, 8, device="cuda")
classes = torch.tensor([0, 1, 2, 99], device="cuda")
with fm.use_backend("cuda"):
    fm.functional.cross_entropy(logits, classes)
    print("the op has returned", flush=True)
torch.cuda.synchronize()
"""


@pytest.mark.skipif(gpu.DEVICE == "cpu", reason="the emulation fails at the op anyway")
@pytest.mark.parametrize("is_synchronous", [False, True])
def test_a_class_out_of_range(is_synchronous):
    env = {**os.environ, "FASTMODEL_SYNC": "1" if is_synchronous else "0"}
    ended = subprocess.run(script(CODE), env=env, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert ("the op has returned" in ended.stdout) != is_synchronous
    if is_synchronous:
        assert "cross_entropy: running a kernel failed" in ended.stderr
