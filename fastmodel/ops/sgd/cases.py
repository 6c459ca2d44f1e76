"""Named inputs of sgd with momentum: reads p, g, b and writes p, b, 20 bytes a float32 parameter."""

from fastmodel.ops.parameter_lists import cases

CASES = cases(bytes_a_parameter=20, flops_a_parameter=6)
