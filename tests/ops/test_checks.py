"""What ops check, and what they remember of it."""

import pytest
import torch

import fastmodel as fm
from fastmodel.errors import InputError
from fastmodel.ops import checks


@pytest.fixture
def counted():
    """A function of sizes that counts its calls."""
    calls = []

    @checks.once_per_signature
    def double(size, step):
        calls.append(size)
        if not isinstance(step, int):
            raise InputError("step must be an integer")
        return [2 * value for value in size], step

    return double, calls


def test_a_signature_is_worked_out_once(counted):
    double, calls = counted
    assert double((1, 2), 3) == double((1, 2), 3) == ([2, 4], 3)
    assert double((1, 3), 3) == ([2, 6], 3)
    assert double((1, 3), 4) == ([2, 6], 4)
    assert calls == [(1, 2), (1, 3), (1, 3)]


def test_what_has_no_hash_is_worked_out_anew(counted):
    double, calls = counted
    assert double([1, 2], 3) == double([1, 2], 3)
    assert len(calls) == 2


def test_an_equal_number_of_another_type_is_another_signature(counted):
    double, _ = counted
    double((1, 2), 1)
    for _ in range(2):
        with pytest.raises(InputError):
            double((1, 2), 1.0)


def test_options_of_one_call_do_not_leak_into_the_next():
    x, weight = torch.randn(2, 3, 12, 12), torch.randn(4, 3, 3, 3)
    options = [
        {},
        {"stride": 2},
        {"padding": 1},
        {"padding": "same"},
        {"dilation": 2},
        {"pool_kernel_size": 3},
        {"pool_stride": 1},
    ]
    for _ in range(2):
        for option in options:
            conv = {k: v for k, v in option.items() if not k.startswith("pool")}
            dense = torch.nn.functional.conv2d(x, weight, **conv).relu()
            pooled = torch.nn.functional.max_pool2d(
                dense, option.get("pool_kernel_size", 2), option.get("pool_stride")
            )
            torch.testing.assert_close(fm.functional.conv_relu_maxpool(x, weight, **option), pooled)
            if conv == option:
                torch.testing.assert_close(fm.functional.conv_relu(x, weight, **option), dense)


def test_shapes_are_checked_anew_after_a_good_call():
    weight = torch.randn(4, 3, 3, 3)
    fm.functional.conv_relu(torch.randn(2, 3, 8, 8), weight)
    for _ in range(2):
        with pytest.raises(InputError, match="3 input channels, x has 2"):
            fm.functional.conv_relu(torch.randn(2, 2, 8, 8), weight)
        with pytest.raises(InputError, match="float64"):
            fm.functional.conv_relu(torch.randn(2, 3, 8, 8, dtype=torch.float64), weight)
