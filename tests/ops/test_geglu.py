"""geglu against F.gelu(gate) * up, and against float64."""

import math

import numpy as np
import torch.nn.functional as F
from scipy import special
from support.gated_linear_unit import GatedLinearUnitTests, Unit

import fastmodel as fm


class TestGEGLU(GatedLinearUnitTests):
    unit = Unit(
        "geglu",
        fm.nn.GEGLU,
        plain=F.gelu,
        value=lambda z: z * special.ndtr(z),
        derivative=lambda z: special.ndtr(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi),
        value_ulp=lambda z: 6.0,
    )
