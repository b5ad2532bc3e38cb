from fractions import Fraction

import numpy as np
import pytest
import torch

from colorize_utils.moving_average import MovingAverage

TENSORS = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16]
ARRAYS = [np.bool_, np.uint8, np.int8, np.int64, np.float16, np.float32, np.longdouble]
KINDS = [int, float, Fraction, *ARRAYS, lambda x: torch.tensor(float(x), requires_grad=True)]
KINDS += [lambda x, dtype=dtype: np.array([x], dtype) for dtype in ARRAYS]
KINDS += [lambda x, dtype=dtype: torch.tensor([x], dtype=dtype) for dtype in TENSORS]


@pytest.mark.parametrize("window", [None, 1, np.int64(7)])
def test_equals_numpys_weighted_mean(window):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=50), rng.integers(1, 100, 50)
    average = MovingAverage(window)
    for i in range(50):
        average.update(values[i] if i % 2 else torch.tensor(values[i]), n=weights[i])
        seen = slice(0 if window is None else max(0, i + 1 - window), i + 1)
        assert average.value == pytest.approx(np.average(values[seen], weights=weights[seen]), rel=1e-12)


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_any_type_are_values_and_weights(kind, window):
    values, weights = MovingAverage(window), MovingAverage(window)
    large = 100 if kind(100) == 100 else 1  # 1 for the booleans
    for _ in range(100):  # a hundred hundreds are too many for 8 bits, and too large for float16
        values.update(kind(large), n=100)
        weights.update(1.0, n=kind(large))
        values.update(0.0, n=300)
        weights.update(-2.0, n=kind(1))
    assert values.value == large / 4
    assert weights.value == pytest.approx((large - 2) / (large + 1), rel=1e-12)
    assert "grad" not in f"{values._seen} {weights._seen}"


@pytest.mark.parametrize("window", [None, 2])
def test_update_never_reads_from_the_device(window):
    average = MovingAverage(window)
    there = torch.empty(1, device="meta", dtype=torch.float16)  # to read from it would raise
    for value, n in [(there, 4), (1.0, there), (there, there), (2.0, 1)]:
        average.update(value, n)
    assert all(x.dtype == torch.float64 for x in average._seen[0])


def test_a_nan_shows_only_while_it_is_in_the_window_and_reset_forgets():
    average = MovingAverage(window=2)
    average.update(float("nan"))
    average.update(1.0)
    assert np.isnan(average.value)
    average.update(3.0)
    assert average.value == 2 and repr(average) == "MovingAverage(2)"
    average.reset()
    with pytest.raises(ValueError, match="call update"):
        _ = average.value


@pytest.mark.parametrize(
    "value, n", [(np.ones(2), 1), (1, torch.ones(2)), (1, 0), (1, -np.ones(1)), (1, np.nan)]
)
def test_wrong_numbers_are_named(value, n):
    with pytest.raises(ValueError, match="pass the mean as value, and n=2|n must be positive"):
        MovingAverage().update(value, n)


@pytest.mark.parametrize("window", [0, -1, 2.5, "3"])
def test_a_window_is_a_positive_whole_number(window):
    with pytest.raises((TypeError, ValueError), match="whole number|integer"):
        MovingAverage(window)
