"""Named inputs of rope."""

from __future__ import annotations

import torch

from fastmodel.ops.rotary_case import rotary_cases

CASES = rotary_cases(lambda angles: torch.cat([angles, angles], dim=-1))
