"""The knobs of a lesson: a wrong value gets one sentence that says which values exist. And where its run lies."""

import hashlib
import math
import os
import sys
import tempfile
from pathlib import Path

import torch

from colorize_utils.files.disk import because, place

SETS = ("sample", "cifar10", "cifar100", "dogs-vs-cats")
WHOLE = "a whole number, 1 or more"
CHOICES = {
    "DATA": 'choose "auto", "sample", "cifar10", "cifar100", "dogs-vs-cats" or the path of a folder of pictures',
    "IMAGE_SIZE": "choose a whole number, 16 or more",
    "BASE_WIDTH": f"choose {WHOLE}, or 0 to let the lesson choose",
    "BATCH_SIZE": f"choose {WHOLE}, or 0 to let the lesson choose",
    "EPOCHS": f"choose {WHOLE}, or 0 to let the lesson choose",
    "LEARNING_RATE": "choose a number above 0, such as 0.001",
    "SEED": "choose a whole number from 0 to 2147483647",
    "CHECKPOINT_DIR": 'choose the whole path of a folder, or one in the course, such as "data/runs"',
}


def exists(name: str, value) -> bool:
    """Whether a knob can have this value. Whether DATA is there, `load_images` finds out."""
    if name in ("DATA", "CHECKPOINT_DIR"):
        return isinstance(value, str) and value.strip() != ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if name == "LEARNING_RATE":
        return 0 < value < math.inf
    lowest = 16 if name == "IMAGE_SIZE" else 0
    return isinstance(value, int) and lowest <= value < 2**31


def check(settings: dict) -> None:
    """Check those of a lesson's globals that are knobs; on Colab without a GPU, say where one is to be had.

    Raises:
        ValueError: a value does not exist, a path is not what it looks like, or nothing can be written to
            CHECKPOINT_DIR, which counts from ROOT. Nothing is made, neither then nor else.
    """
    for name, choices in CHOICES.items():
        if name in settings and not exists(name, settings[name]):
            raise ValueError(f"{name} = {settings[name]!r} does not exist: {choices}")
    for name in settings.keys() & {"DATA", "CHECKPOINT_DIR"}:
        path = settings[name] if name == "CHECKPOINT_DIR" else os.path.expanduser(settings[name])
        try:
            place(path)  # as it was written, before it counts from ROOT
            if name == "CHECKPOINT_DIR":
                folder = place(settings["ROOT"] / path)
                there = next(part for part in (folder, *folder.parents) if os.path.lexists(part))
                tempfile.TemporaryFile(dir=there).close()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        except OSError as error:
            raise ValueError(f"{name}: nothing can be written to {folder} ({because(error)})") from error
    if "google.colab" in sys.modules and not torch.cuda.is_available():
        print("No GPU: Runtime ▸ Change runtime type ▸ T4 GPU has one; without, the net is a small one.")


def run_folder(checkpoints, data: str, image_size: int, base_width: int) -> Path:
    """Where a lesson's run lies below `checkpoints`: another folder for other pictures, another size or width."""
    name = str(data)
    if name not in SETS:  # cats/train and dogs/train are not the same
        path = os.path.abspath(os.path.expanduser(name))
        name = f"{os.path.basename(path)}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    return Path(checkpoints) / f"{name}_{image_size}px_w{base_width}"
