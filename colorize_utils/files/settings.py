"""The knobs of a lesson: a wrong value gets one sentence that says which values exist."""

import math
import sys
import tempfile
from pathlib import Path

import torch

WHOLE = "a whole number, 1 or more"
CHOICES = {
    "DATA": 'choose "auto", "sample", "cifar10", "cifar100", "dogs-vs-cats" or the path of a folder of pictures',
    "IMAGE_SIZE": f"choose {WHOLE}",
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
        return (
            isinstance(value, str) and value.strip() != "" and not (name != "DATA" and value[0] == "~")
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if name == "LEARNING_RATE":
        return 0 < value < math.inf
    lowest = 1 if name == "IMAGE_SIZE" else 0
    return isinstance(value, int) and lowest <= value < 2**31


def check_folder(folder: Path) -> None:
    """Raise a ValueError if nothing can be written to `folder`, which is made where it is missing."""
    drive = Path("/content/drive")
    if drive in folder.parents and not (drive / "MyDrive").is_dir():
        raise ValueError(
            f"CHECKPOINT_DIR is in your Google Drive, which is not mounted: run "
            f"`from google.colab import drive; drive.mount({str(drive)!r})` first"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"CHECKPOINT_DIR: nothing can be written to {folder} ({error.strerror}): choose another folder"
        ) from error


def check(settings: dict) -> None:
    """Check those of a lesson's globals that are knobs; on Colab without a GPU, say where one is to be had.

    Raises:
        ValueError: a value does not exist, or nothing can be written to CHECKPOINT_DIR, which counts from ROOT.
    """
    for name, choices in CHOICES.items():
        if name in settings and not exists(name, settings[name]):
            raise ValueError(f"{name} = {settings[name]!r} does not exist: {choices}")
    if "CHECKPOINT_DIR" in settings:
        check_folder(settings["ROOT"] / settings["CHECKPOINT_DIR"])
    if "google.colab" in sys.modules and not torch.cuda.is_available():
        print(
            "No GPU here. There is one under Runtime ▸ Change runtime type ▸ T4 GPU; without, expect a small net."
        )
