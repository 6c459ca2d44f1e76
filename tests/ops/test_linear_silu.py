"""linear_silu against F.silu(F.linear(...)), and against float64."""

import torch.nn.functional as F
from scipy import special
from support.linear_activation import Activation, LinearActivationTests

import fastmodel as fm


class TestLinearSiLU(LinearActivationTests):
    activation = Activation(
        "linear_silu",
        fm.nn.LinearSiLU,
        plain=F.silu,
        value=lambda z: z * special.expit(z),
        derivative=lambda z: special.expit(z) * (1 + z * special.expit(-z)),
        value_ulp=3.5,
        keeps_pre=True,
    )
