"""Named inputs of adam: reads p, g, m, v and writes p, m, v, 28 bytes a float32 parameter.

Clipping reads g once more; bfloat16 moments take half of theirs.
"""

import torch

from fastmodel.ops.parameter_lists import Variant, cases

CASES = cases(
    Variant("", {}, bytes_a_parameter=28, flops_a_parameter=14),
    Variant("-clip", {"max_grad_norm": 1.0}, bytes_a_parameter=32, flops_a_parameter=16),
    Variant(
        "-bfloat16-moments",
        {"state_dtype": torch.bfloat16},
        bytes_a_parameter=20,
        flops_a_parameter=14,
    ),
)
