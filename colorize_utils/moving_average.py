"""A weighted mean that is updated as values arrive, for losses and metrics."""

import math
import operator
from collections import deque

import torch


class MovingAverage:
    """Mean of the values seen so far, or of the last `window` updates, each weighted by its `n`.

    Values and weights are numbers of any type: Python's, NumPy's, tensors with one element. What is on a GPU
    stays there: `update` never waits for it, only reading `value` does. Sums are in double precision (single
    on Apple's GPUs, which have no double), without a graph. A NaN shows for as long as it is part of the mean.

    Args:
        window: how many updates to average over; None for all of them.

    Raises:
        TypeError, ValueError: `window` is not a positive whole number.

    >>> loss = MovingAverage()
    >>> loss.update(1.0, n=64)  # the mean of a batch of 64
    >>> loss.update(4.0, n=32)  # the last, smaller batch counts half
    >>> loss.value
    2.0
    """

    def __init__(self, window: int | None = None):
        self.window = None if window is None else operator.index(window)
        if window is not None and self.window < 1:
            raise ValueError(f"window must be a positive whole number or None, not {window!r}")
        self.reset()

    def reset(self) -> None:
        """Forget every value."""
        self._seen = deque(maxlen=self.window)  # (value x n, n): the last updates, or one running sum

    def update(self, value, n=1) -> None:
        """Add `value`, the mean of `n` items.

        Raises:
            ValueError: one of the two has more than one element, or `n` is not positive. (An `n` on a GPU is
                not waited for: where it is not positive, `value` becomes NaN.)
        """
        value, n = _number(value, "value"), _number(n, "n")
        if isinstance(n, torch.Tensor):
            n = n.masked_fill(n <= 0, math.nan)
        elif not n > 0:
            raise ValueError(f"n must be positive, not {n:g}: it counts the items that value averages")
        total = value * n
        if self.window is None and self._seen:
            earlier, count = self._seen.pop()
            total, n = earlier + total, count + n
        self._seen.append((total, n))

    @property
    def value(self) -> float:
        """The weighted mean as a Python float. On a GPU, reading it waits for the work queued so far.

        Raises:
            ValueError: nothing has been added since the start or the last `reset`.
        """
        if not self._seen:
            raise ValueError("no value yet: call update() before reading the average")
        return float(sum(total for total, _ in self._seen) / sum(n for _, n in self._seen))

    def __repr__(self) -> str:
        return f"MovingAverage({f'{self.value:.6g}' if self._seen else 'empty'})"


def _number(x, name: str):
    """`x` as a Python float; where that would mean waiting for a device, as a tensor that stays there."""
    size = math.prod(getattr(x, "shape", ()))
    if size != 1:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: pass the mean as value, and n={size}")
    if isinstance(x, torch.Tensor) and x.device.type != "cpu":
        return x.detach().reshape(()).to(torch.float32 if x.device.type == "mps" else torch.float64)
    return float(x.item() if hasattr(x, "item") else x)
