"""The checkpoints that come with the course: small nets that know CIFAR-100, for colour without training."""

from pathlib import Path

from torch import nn

from colorize_utils.files import checkpoint
from colorize_utils.losses import AnnealedMean
from colorize_utils.unet import UNet

HERE = Path(__file__).resolve().parent
FOLDERS = HERE / "checkpoints", HERE.parent / "data" / "checkpoints"  # an installed package, a clone


NAMES = "rare_colors_w16", "mse_w16"


def place(name: str) -> Path:
    """The file of a shipped net. Raises ValueError where none has this name."""
    if name not in NAMES:
        raise ValueError(f"no net is shipped as {name!r}: there are {', '.join(NAMES)}")
    return next(filter(Path.is_dir, FOLDERS)) / f"{name}.pt"


def load_shipped(device="cpu", name="rare_colors_w16") -> tuple[nn.Module, dict]:
    """A model L (B, 1, H, W) -> ab (B, 2, H, W), in eval mode, and its info: settings and metrics.

    Both are U-Nets of width 16. "rare_colors_w16" answers with classes, and lesson 7's `AnnealedMean` makes
    colours of them; "mse_w16" is what lesson 4's loop makes of CIFAR-100, sepia and all.
    They learnt on pictures of 32 x 32: give `predict` a `short_side` of 32. Errors as for `checkpoint.read`.
    """
    content = checkpoint.read(place(name), keys=("architecture", "model", "info"))
    model, info = UNet(**content["architecture"]), content["info"]
    model.load_state_dict(content["model"])
    if "temperature" in info:
        model = nn.Sequential(model, AnnealedMean(info["temperature"]))
    return model.to(device).eval(), info
