"""Named inputs of linear_tanh."""

from fastmodel.ops.linear_case import linear_cases

CASES = linear_cases()
