from fractions import Fraction

import numpy as np
import pytest
import torch

from colorize_utils.moving_average import MovingAverage

SHARED = ["bool", "uint8", "int8", "int64", "float16"]
KINDS = [int, float, Fraction, lambda x: torch.tensor(float(x), requires_grad=True)]
for _name in [*SHARED, "float32", "longdouble"]:
    KINDS += [np.dtype(_name).type, lambda x, dtype=_name: np.array([x], dtype)]
for _name in [*SHARED, "int32", "bfloat16"]:
    KINDS += [lambda x, name=_name: torch.tensor([x], dtype=getattr(torch, name))]


@pytest.mark.parametrize("window", [None, 1, np.int64(7)])
def test_equals_numpys_weighted_mean(window):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=50), rng.integers(1, 100, 50)
    average = MovingAverage(window)
    for i in range(50):
        average.update(values[i] if i % 2 else torch.tensor(values[i]), n=weights[i])
        seen = slice(0 if window is None else max(0, i + 1 - window), i + 1)
        expected = np.average(values[seen], weights=weights[seen])
        assert average.value == pytest.approx(expected, rel=1e-12)


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


@pytest.mark.parametrize("window, value, n, message", [
    *[(None, *two, "as value, and n=2") for two in ((np.ones(2), 1), (1, torch.ones(2)))],
    *[(None, 1, n, "n must be positive") for n in (0, -np.ones(1), np.nan)],
    *[(window, 1, 1, "whole number|integer") for window in (0, -1, 2.5, "3")],
])  # fmt: skip
def test_wrong_numbers_are_named(window, value, n, message):
    with pytest.raises((TypeError, ValueError), match=message):
        MovingAverage(window).update(value, n)
