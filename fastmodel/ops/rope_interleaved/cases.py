"""Named inputs of rope_interleaved."""

from fastmodel.ops.rotary_case import rotary_cases

CASES = rotary_cases(lambda angles: angles.repeat_interleave(2, dim=-1))
