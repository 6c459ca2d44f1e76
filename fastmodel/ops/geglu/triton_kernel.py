"""geglu in Triton: triton_gated.py with its activation."""

from fastmodel.ops import triton_math
from fastmodel.ops.triton_gated import TritonGate

_KERNELS = TritonGate(triton_math.gelu, triton_math.gelu_chain)

forward = _KERNELS.forward
backward = _KERNELS.backward
