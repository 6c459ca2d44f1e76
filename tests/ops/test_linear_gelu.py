"""linear_gelu against F.gelu(F.linear(...)), and against float64."""

import math

import numpy as np
import torch.nn.functional as F
from scipy import special
from support.linear_activation import Activation, LinearActivationTests

import fastmodel as fm


class TestLinearGELU(LinearActivationTests):
    activation = Activation(
        "linear_gelu",
        fm.nn.LinearGELU,
        plain=F.gelu,
        value=lambda z: z * special.ndtr(z),
        derivative=lambda z: special.ndtr(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi),
        value_ulp=6.0,
        keeps_pre=True,
    )
