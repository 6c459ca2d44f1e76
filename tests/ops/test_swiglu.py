"""swiglu against F.silu(gate) * up, and against float64."""

import torch.nn.functional as F
from scipy import special
from support.gated_linear_unit import GatedLinearUnitTests, Unit

import fastmodel as fm


class TestSwiGLU(GatedLinearUnitTests):
    unit = Unit(
        "swiglu",
        fm.nn.SwiGLU,
        plain=F.silu,
        value=lambda z: z * special.expit(z),
        derivative=lambda z: special.expit(z) * (1 + z * special.expit(-z)),
        value_ulp=lambda z: 4.0,
    )
