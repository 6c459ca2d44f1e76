"""linear_tanh against torch.tanh(F.linear(...)), and against float64."""

import numpy as np
import torch
from support.linear_activation import Activation, LinearActivationTests

import fastmodel as fm


class TestLinearTanh(LinearActivationTests):
    activation = Activation(
        "linear_tanh",
        fm.nn.LinearTanh,
        plain=torch.tanh,
        value=np.tanh,
        derivative=lambda out: 1 - out * out,
        value_ulp=2.5,
    )
