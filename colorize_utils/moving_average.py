"""A weighted mean that is updated as values arrive, for losses and metrics."""

import math
from collections import deque

import torch


class MovingAverage:
    """Mean of the values seen so far, or of the last `window` updates, each weighted by its `n`.

    A tensor stays on its device: `update` never waits for a GPU, only reading `value` does.
    Sums are kept in double precision (single on Apple's GPUs, which have no double), so half-precision
    losses do not overflow. A NaN stays visible in `value` for as long as it is part of the mean.

    Args:
        window: how many updates to average over; None for all of them.

    Raises:
        ValueError: `window` is not a positive whole number.

    >>> loss = MovingAverage()
    >>> loss.update(1.0, n=64)  # the mean of a batch of 64
    >>> loss.update(4.0, n=32)  # the last, smaller batch counts half
    >>> loss.value
    2.0
    """

    def __init__(self, window: int | None = None):
        if window is not None and (not isinstance(window, int) or window < 1):
            raise ValueError(f"window must be a positive whole number or None, not {window!r}")
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Forget every value."""
        self._recent = deque(
            maxlen=self.window
        )  # (value x n, n) of the last updates, if there is a window
        self._sum = 0.0
        self._count = 0

    def update(self, value, n: int | float = 1) -> None:
        """Add `value`, the mean of `n` items (a number, or a tensor or array with one element).

        Raises:
            ValueError: `value` has more than one element, or `n` is not positive.
        """
        if not n > 0:
            raise ValueError(
                f"n must be positive, not {n!r}: it is the number of items that value averages"
            )
        size = math.prod(getattr(value, "shape", ()))
        if size != 1:
            raise ValueError(f"value has shape {tuple(value.shape)}: pass its mean, and n={size}")
        if isinstance(value, torch.Tensor):
            precise = torch.float32 if value.device.type == "mps" else torch.float64
            value = value.detach().reshape(()).to(precise)
        else:
            value = float(value.item() if hasattr(value, "item") else value)
        if self.window is None:
            self._sum = self._sum + value * n
            self._count += n
        else:
            self._recent.append((value * n, n))

    @property
    def value(self) -> float:
        """The weighted mean as a Python float. On a GPU, reading it waits for the work queued so far.

        Raises:
            ValueError: nothing has been added since the start or the last `reset`.
        """
        total, count = self._sum, self._count
        if self.window is not None:
            total = sum(weighted for weighted, _ in self._recent)
            count = sum(n for _, n in self._recent)
        if count == 0:
            raise ValueError("no value yet: call update() before reading the average")
        return float(total / count)

    def state_dict(self) -> dict:
        """What it has seen, as plain numbers: goes into a checkpoint. On a GPU, this waits as `value` does."""
        recent = [(float(weighted), n) for weighted, n in self._recent]
        return {"sum": float(self._sum), "count": self._count, "recent": recent}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` gave."""
        self._sum, self._count = state["sum"], state["count"]
        self._recent = deque(map(tuple, state["recent"]), maxlen=self.window)

    def __repr__(self) -> str:
        return (
            "MovingAverage(empty)"
            if not (self._count or self._recent)
            else f"MovingAverage({self.value:.6g})"
        )
