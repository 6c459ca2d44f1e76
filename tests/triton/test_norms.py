"""The norms' Triton kernels, beside what test_ops.py holds every op to."""

import math

import pytest
import torch
from support import norm, op_checks
from support.norm import NORMS

import fastmodel as fm

each = pytest.mark.parametrize("name", NORMS)
residual = pytest.mark.parametrize("name", [name for name in NORMS if NORMS[name].has_residual])
narrow = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@narrow
@each
def test_parameters_in_float32_beside_a_narrow_input(name, dtype):
    norm.check_mixed_dtypes(NORMS[name], dtype, "triton")


@norm.far_from_zero
@pytest.mark.parametrize("name", ["layer_norm", "add_layer_norm"])
def test_a_mean_far_from_zero_costs_no_digit(name, offset, deviation):
    norm.check_far_from_zero(NORMS[name], offset, deviation, "triton")


# Not bfloat16, to which Triton's interpreter cuts values that a GPU rounds.
@residual
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_what_is_normalised_is_the_sum_as_it_is_returned(name, dtype):
    norm.check_the_sum_is_normalised(NORMS[name], dtype, "triton")


@residual
@pytest.mark.parametrize("position", [0, 1])
def test_dtypes_promote(name, position):
    norm.check_promotion(NORMS[name], position, "triton")


@residual
def test_what_promotes_to_float64_is_refused(name):
    x, wide, *rest = NORMS[name].args(2, shape=(5,))
    with fm.use_backend("triton"), pytest.raises(fm.errors.BackendError, match="promote to"):
        getattr(fm.functional, name)(x, wide.double(), *rest)


@each
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, which interprets
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_special_values(name, value):
    args = NORMS[name].args(6, shape=(37,))
    args[0][2, 20] = value
    op_checks.check_special_values(NORMS[name].op, args, "triton")


@each
def test_only_the_gradients_wanted(name):
    with fm.use_backend("triton"):
        op_checks.check_only_the_gradients_wanted(
            NORMS[name].op, NORMS[name].case("tiny").make(torch.float32)
        )
