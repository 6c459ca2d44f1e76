"""Named inputs of adam: reads p, g, m, v and writes p, m, v, 28 bytes a float32 parameter."""

from fastmodel.ops.parameter_lists import cases

CASES = cases(bytes_a_parameter=28, flops_a_parameter=14)
