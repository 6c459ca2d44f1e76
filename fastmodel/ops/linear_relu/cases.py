"""Named inputs of linear_relu."""

from fastmodel.ops.linear_case import linear_cases

CASES = linear_cases()
