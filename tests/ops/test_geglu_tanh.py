"""geglu_tanh against F.gelu(gate, approximate="tanh") * up, and against float64."""

import functools
import math

import numpy as np
import torch.nn.functional as F
from scipy import special
from support.gated_linear_unit import GatedLinearUnitTests, Unit

import fastmodel as fm

_SCALE = 2 * math.sqrt(2 / math.pi)


def _twice_u(z):
    return _SCALE * (z + 0.044715 * z**3)


def _value(z):
    z = np.clip(z, -1e4, None)  # z^3 of float64's own does not overflow then
    return z * special.expit(_twice_u(z))


def _derivative(z):
    z = np.clip(z, -1e4, 1e4)
    slope = _SCALE * (1 + 3 * 0.044715 * z**2)
    return special.expit(_twice_u(z)) * (1 + z * special.expit(-_twice_u(z)) * slope)


class TestGEGLUTanh(GatedLinearUnitTests):
    unit = Unit(
        "geglu_tanh",
        fm.nn.GEGLUTanh,
        plain=functools.partial(F.gelu, approximate="tanh"),
        value=_value,
        derivative=_derivative,
        # The exponential is as wrong as its argument 2 u is, with four roundings of half an ulp.
        value_ulp=lambda z: 5.0 + 3 * np.abs(_twice_u(np.clip(z, -15, 15))),
    )
