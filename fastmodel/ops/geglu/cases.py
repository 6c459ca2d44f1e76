"""Named inputs of geglu."""

from fastmodel.ops.gated_case import gated_cases

CASES = gated_cases(flops=40)
