"""Named inputs of sgd with momentum: reads p, g, b and writes p, b, 20 bytes a float32 parameter.

Clipping reads g once more.
"""

from fastmodel.ops.parameter_lists import Variant, cases

CASES = cases(
    Variant("", {}, bytes_a_parameter=20, flops_a_parameter=6),
    Variant("-clip", {"max_grad_norm": 1.0}, bytes_a_parameter=24, flops_a_parameter=8),
)
