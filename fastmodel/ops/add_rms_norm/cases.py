"""Named inputs of add_rms_norm."""

from fastmodel.ops.norm_case import norm_cases

CASES = norm_cases(1, has_residual=True)
