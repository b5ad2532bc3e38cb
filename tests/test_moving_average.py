import numpy as np
import pytest
import torch

from colorize_utils.moving_average import MovingAverage


@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("kind", [float, torch.tensor, np.float32, lambda value: np.array([value])])
def test_equals_numpys_weighted_mean(window, kind):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=50).astype(np.float32), rng.integers(1, 100, 50)
    average = MovingAverage(window)
    for i in range(50):
        average.update(kind(values[i]), n=int(weights[i]))
        seen = slice(0 if window is None else max(0, i + 1 - window), i + 1)
        assert average.value == pytest.approx(np.average(values[seen], weights=weights[seen]), rel=1e-6)


def test_half_precision_does_not_overflow():
    average = MovingAverage()
    for _ in range(100):
        average.update(torch.tensor(60000.0, dtype=torch.float16), n=64)
    assert average.value == 60000


def test_update_never_reads_the_value_from_the_device():
    average = MovingAverage()
    average.update(torch.empty((), device="meta"), n=4)  # reading a meta tensor would raise
    average.update(torch.empty((), device="meta"), n=2)


def test_keeps_no_graph():
    x = torch.ones((), requires_grad=True)
    average = MovingAverage(window=2)
    average.update(x * 2)
    assert average.value == 2
    assert not any(value.requires_grad for value, _ in average._recent)


def test_nan_stays_visible_only_while_it_is_in_the_window():
    average = MovingAverage(window=2)
    average.update(float("nan"))
    average.update(1.0)
    assert np.isnan(average.value)
    average.update(3.0)
    assert average.value == 2


def test_reset_forgets():
    average = MovingAverage()
    average.update(5.0)
    average.reset()
    average.update(1.0)
    assert average.value == 1


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="call update"):
        _ = MovingAverage().value
    with pytest.raises(ValueError, match="pass its mean, and n=3"):
        MovingAverage().update(torch.ones(3))
    with pytest.raises(ValueError, match="pass its mean, and n=4"):
        MovingAverage().update(np.ones((2, 2)))
    with pytest.raises(ValueError, match="n must be positive"):
        MovingAverage().update(1.0, n=0)
    with pytest.raises(ValueError, match="window"):
        MovingAverage(window=0)
    assert "empty" in repr(MovingAverage())
