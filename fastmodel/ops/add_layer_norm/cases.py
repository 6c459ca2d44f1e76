"""Named inputs of add_layer_norm."""

from fastmodel.ops.norm_case import norm_cases

CASES = norm_cases(2, has_residual=True)
