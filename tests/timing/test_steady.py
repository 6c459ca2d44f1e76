"""Series that rest, warm up, drift or jump; the tests behind the verdict against scipy's."""

import numpy as np
import pytest
import scipy.stats
from support.simulate import ar1

from fastmodel.errors import InputError
from fastmodel.timing import steadiness, steady


def noisy(shape, rho=0.0, seed=0, spread=0.01):
    noise = ar1(len(shape), rho, np.random.default_rng(seed))
    return (np.asarray(shape) * np.exp(spread * noise)).tolist()


def test_noise_rests_from_the_start():
    found = steadiness(noisy(np.ones(40)))
    assert (found.verdict, found.first) == ("steady", 0)
    assert abs(found.drift) < 0.02


def test_warming_up_is_cut_off():
    shape = np.concatenate([np.linspace(2.0, 1.05, 10), np.ones(40)])
    found = steadiness(noisy(shape))
    assert found.verdict == "steady" and 3 <= found.first <= 12
    assert abs(found.drift) < 0.03


@pytest.mark.parametrize(
    "shape",
    [np.linspace(1.0, 1.5, 40), np.linspace(1.5, 1.0, 40), np.r_[np.ones(28), 1.3 * np.ones(12)]],
    ids=["slower", "faster", "late jump"],
)
def test_never_is_an_answer(shape):
    found = steadiness(noisy(shape))
    assert (found.verdict, found.first) == ("never steady", None)
    if shape[0] < shape[-1]:
        assert found.drift > 0.1
    else:
        assert found.drift < -0.1


def test_few_windows_are_no_evidence():
    assert steadiness([1.0, 1.1, 1.0]).verdict == "too few windows"
    assert steadiness([]).first is None


def test_autocorrelated_noise_is_seldom_called_a_trend():
    verdicts = [steadiness(noisy(np.ones(40), 0.6, seed, 0.05)).verdict for seed in range(200)]
    assert verdicts.count("steady") >= 190


def test_drift_and_trend_are_scipys():
    for seed in range(5):
        series = np.log(noisy(np.linspace(1, 1.05, 30), 0.0, seed, 0.02))
        steps = np.arange(30)
        assert steady._slope(series) == pytest.approx(scipy.stats.theilslopes(series, steps).slope)
        p = scipy.stats.kendalltau(steps, series, method="asymptotic").pvalue
        if not 0.005 < p < 0.02:  # the correction for autocorrelation moves what is close
            assert steady._has_trend(series) == (p < 0.01)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_impossible_times_are_refused(bad):
    with pytest.raises(InputError, match="finite and above 0"):
        steadiness([1.0] * 10 + [bad])
