"""linear_sigmoid against torch.sigmoid(F.linear(...)), and against float64."""

import torch
from scipy import special
from support.linear_activation import Activation, LinearActivationTests

import fastmodel as fm


class TestLinearSigmoid(LinearActivationTests):
    activation = Activation(
        "linear_sigmoid",
        fm.nn.LinearSigmoid,
        plain=torch.sigmoid,
        value=special.expit,
        derivative=lambda out: out * (1 - out),
        value_ulp=2.5,
    )
