"""A training run that survives disconnects, full disks and impatience. Lesson 04's `fit` runs inside one."""

import math
import os
import signal
import threading
import time
from pathlib import Path

import torch

from colorize_utils.files import checkpoint
from colorize_utils.moving_average import MovingAverage

NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
)  # Linux, Windows, Apple's GPUs


class Run:
    """Keeps a training's state in `folder`, goes on from there, and says what is wrong when something is.

    `last.pt` is where the training is, `previous.pt` the save before it, `best.pt` the epoch of the lowest
    validation error. Each holds weights, settings and history; the first two also the position in the epoch,
    the state of all `parts` and of PyTorch's random numbers.

    Args:
        model: the net to be trained; its weights are restored.
        folder: where the files go; None keeps nothing.
        settings: plain values that must be the same when the run goes on.
        save_minutes: time between saves within an epoch; each epoch ends with one.
        parts: what else has a state_dict: optimizer, scheduler, scaler, loss; the loss's is also in each info.

    Raises:
        ValueError: what is in the folder is of another net or other settings, or damaged.

    >>> with Run(model, folder, settings, optimizer=optimizer) as run:
    ...     for epoch in range(run.epoch, epochs):
    ...         for index in rows[run.step :]:
    ...             ...
    ...             run.average.update(error, n=len(index))
    ...             run.after_step()
    ...         run.end_epoch(run.average.value, validation)
    """

    def __init__(self, model, folder=None, settings=None, *, save_minutes: float = 5, **parts):
        self.model, self.settings, self.parts = model, settings or {}, parts
        self.folder, self.save_minutes = Path(folder) if folder else None, save_minutes
        self.history = {"train": [], "validation": []}
        self.step, self.average, self.stopping = 0, MovingAverage(), False
        if self.folder:
            checkpoint.architecture(model)  # better now than after the first epoch
            if unnamed := [
                value
                for value in map(str, self.settings.values())
                if "<lambda>" in value or " at 0x" in value
            ]:
                raise ValueError(
                    f"{unnamed[0]} has no name by which a later run could know it: define it with def"
                )
            self._resume()
        self._saved_at = time.monotonic()

    @property
    def epoch(self) -> int:
        """How many epochs are complete."""
        return len(self.history["train"])

    def _resume(self) -> None:
        damage, last = None, self.folder / "last.pt"
        for stale in self.folder.glob("*.pt.*.partial"):  # of a process that was killed while it saved
            stale.unlink()
        for path in (last, self.folder / "previous.pt"):
            if not path.is_file():
                continue
            try:
                content = checkpoint.restore(path, self.model, self.settings, **self.parts)
            except checkpoint.Damaged as error:
                damage = error
                continue
            if damage:
                print(f"last.pt is damaged: taking {path.name}, the save before it")
            if path != last:
                os.replace(path, last)  # else the next save would move the damaged one over it
            position = content["state"]["position"]
            self.history, self.step = content["info"]["history"], position["step"]
            self.average.load_state_dict(position["average"])
            restore_random(content["state"]["random"])
            print(f"going on after epoch {self.epoch}" + f" and {self.step} steps" * (self.step > 0))
            return
        if damage:
            raise damage
        if (self.folder / "best.pt").is_file():
            raise ValueError(
                f"{self.folder} holds a best.pt and no last.pt: move it away, or use another CHECKPOINT_DIR"
            )

    def after_step(self) -> None:
        """To be called after each step of the optimiser: counts it, and saves when it is time.

        Raises:
            FloatingPointError: the mean loss is no longer finite (on a GPU found within 50 steps, not to slow it).
            KeyboardInterrupt: the user wants to stop; the state is saved.
        """
        self.step += 1
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        if on_cpu or self.step % 50 == 0:
            self._check_loss()
        if self.folder and (
            self.stopping or time.monotonic() - self._saved_at >= 60 * self.save_minutes
        ):
            self._save()
        self._stop_if_asked()

    def end_epoch(self, train: float, validation: float) -> None:
        """Add an epoch's errors to the history, and save. Errors as for `after_step`."""
        self._check_loss(validation)
        self.history["train"].append(train)
        self.history["validation"].append(validation)
        self.step = 0
        self.average.reset()
        if self.folder:
            self._check_weights()
            if validation == min(self.history["validation"]):
                checkpoint.save(self.folder / "best.pt", self.model, self._info())
            self._save()
        self._stop_if_asked()

    def _info(self) -> dict:
        info = {"settings": self.settings, "history": self.history}
        if "loss" in self.parts:
            info["loss"] = self.parts["loss"].state_dict()
        return info

    def _save(self) -> None:
        if self.step:
            self._check_loss()
        self._check_weights()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        kinds = {name: type(part).__name__ for name, part in self.parts.items()}
        state["position"] = {"step": self.step, "average": self.average.state_dict(), "parts": kinds}
        state["random"] = random_states()
        last, previous = self.folder / "last.pt", self.folder / "previous.pt"
        checkpoint.save(last, self.model, self._info(), keep=previous, **state)
        self._saved_at = time.monotonic()

    def _kept(self) -> str:
        last = self.folder and self.folder / "last.pt"
        return f"; {last} holds the last good state" if last and last.is_file() else ""

    def _not_finite(self, what: str) -> FloatingPointError:
        groups = getattr(self.parts.get("optimizer"), "param_groups", [{"lr": math.nan}])
        return FloatingPointError(
            f"{what} at step {self.step} of epoch {self.epoch + 1}, with learning rate {groups[0]['lr']:g}: "
            f"set a smaller LEARNING_RATE, and another CHECKPOINT_DIR{self._kept()}"
        )

    def _check_loss(self, validation: float = 0.0) -> None:
        if not math.isfinite(self.average.value):
            raise self._not_finite(f"the loss is {self.average.value}")
        if not math.isfinite(validation):
            raise self._not_finite(f"the validation error is {validation}")

    def _check_weights(self) -> None:
        values = self.model.state_dict().values()
        if not all(value.isfinite().all() for value in values if value.is_floating_point()):
            raise self._not_finite("weights are no longer finite")

    # ---- interrupts and memory ----

    def __enter__(self):
        self._before = None
        if self.folder and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def _interrupt(self, *_) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        print("stopping after this step (interrupt once more to stop at once)")

    def _stop_if_asked(self) -> None:
        if self.stopping:
            raise KeyboardInterrupt(f"stopped; {self.folder / 'last.pt'} has it all: run again to go on")

    def __exit__(self, kind, error, _) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
            isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
        ):
            batch = self.settings.get("batch_size", "?")
            raise MemoryError(
                f"out of memory with BATCH_SIZE = {batch}: halve it, or lower IMAGE_SIZE or BASE_WIDTH, "
                f"with another CHECKPOINT_DIR{self._kept()}"
            ) from error


def random_states() -> dict:
    """PyTorch's random number generators, on the CPU and on every CUDA device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random(states: dict) -> None:
    """Put the generators back to `random_states`; those of absent GPUs are left out."""
    torch.set_rng_state(states["cpu"])
    for device, state in enumerate(states.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
