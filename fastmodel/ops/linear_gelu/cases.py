"""Named inputs of linear_gelu."""

from fastmodel.ops.linear_case import linear_cases

CASES = linear_cases()
