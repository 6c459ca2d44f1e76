"""Named inputs of linear_sigmoid."""

from fastmodel.ops.linear_case import linear_cases

CASES = linear_cases()
