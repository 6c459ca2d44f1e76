"""Named inputs of geglu_tanh."""

from fastmodel.ops.gated_case import gated_cases

CASES = gated_cases(flops=30)
