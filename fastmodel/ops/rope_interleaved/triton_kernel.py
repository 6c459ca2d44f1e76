"""rope_interleaved in Triton: triton_rotary.py with its pairs."""

from fastmodel.ops.triton_rotary import TritonRotary

_KERNELS = TritonRotary(is_neighbours=True)

forward = _KERNELS.forward
backward = _KERNELS.backward
