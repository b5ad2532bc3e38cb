"""Every metric of lesson 6 over a whole set, beside two trivial painters, and the table of them. Written by hand."""

import math
from collections import defaultdict

import torch
from torch import nn
from tqdm.auto import tqdm

from colorize_utils.lab import from_network, rgb_to_lab
from colorize_utils.metrics import (
    PaintColor,
    PaintMean,
    auc,
    balanced_auc,
    color_frequency,
    colorfulness,
    psnr,
    rarity,
)
from colorize_utils.moving_average import MovingAverage
from colorize_utils.similarity import delta_e, ssim

COLUMNS = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 4), "delta_e": ("ΔE00", 2), "auc": ("AuC", 2)}
COLUMNS |= {"balanced_auc": ("balanced", 2), "share": ("colour, %", 0)}  # title, digits


def batch_scores(model, truth, frequency) -> dict[str, tuple[torch.Tensor, float]]:
    """Every metric of a batch, uint8 RGB (B, 3, H, W), with its weight in the mean of a set."""
    lab = rgb_to_lab(truth)
    L, true_ab = lab[:, :1] / 50 - 1, lab[:, 1:] / 110  # as `to_network` gives them
    ab = model(L)
    rgb, scores = from_network(L, ab), {}
    colored = (truth != truth[:, :1]).flatten(1).any(dim=1)  # not exactly grey
    if colored.any():
        scores["psnr"] = psnr(rgb, truth)[colored].mean(), colored.sum().item()
    scores["ssim"] = ssim(rgb, truth).mean(), len(truth)
    scores["delta_e"] = delta_e(rgb_to_lab(rgb), lab).mean(), len(truth)
    scores["auc"] = auc(ab, true_ab).mean(), len(truth)
    weight = rarity(true_ab, frequency).sum().item()
    scores["balanced_auc"] = balanced_auc(ab, true_ab, frequency), weight
    scores["colorfulness"] = colorfulness(rgb).mean(), len(truth)
    scores["true_colorfulness"] = colorfulness(truth).mean(), len(truth)
    return scores


@torch.no_grad()
def measure(model: nn.Module, pictures, frequency: torch.Tensor, batch_size: int = 64) -> dict:
    """Every metric of a model L -> ab over pictures, uint8 RGB (N, 3, H, W), in eval mode.

    PSNR is the mean over the pictures that are not exactly grey, the balanced AuC is over all
    pixels together, the others are means over all pictures. `share` is the mean colourfulness
    divided by the truth's. `frequency` is that of the training pictures.
    """
    device = next((p.device for p in model.parameters()), pictures.device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    average = defaultdict(MovingAverage)
    for truth in tqdm(pictures.split(batch_size), "measuring", leave=False):
        for name, (value, n) in batch_scores(model, truth.to(device), frequency).items():
            average[name].update(value, n=n)
    for module, mode in modes:
        module.training = mode  # as it was, a frozen BatchNorm too
    result = {name: found.value for name, found in average.items()}
    return result | {"share": result["colorfulness"] / result["true_colorfulness"]}


def evaluate(model: nn.Module, images, part: str = "test") -> dict[str, dict[str, float]]:
    """`measure` for painting grey, for painting the training pictures' mean, and for the model."""
    frequency, pictures = color_frequency(images.train), getattr(images, part)
    painters = {"grey": PaintColor(), "mean colour": PaintMean(images.train), "U-Net": model}
    return {name: measure(painter, pictures, frequency) for name, painter in painters.items()}


def with_error(found: list[float], digits: int) -> str:
    """The mean over the seeds, ± its standard error where there are several."""
    values = torch.tensor(found).double()
    error = f" ± {values.std() / math.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{error}"


def score_table(scores: dict, title: str = "") -> str:
    """{name: scores} of `evaluate`, or {name: [scores of each seed]}, as text; of ΔE00, less is better.

    The last column is the colourfulness, in per cent of the truth's.
    """
    names, columns = [title, *scores], []
    for key, (heading, digits) in COLUMNS.items():
        cells, factor = [heading], 100 if key == "share" else 1
        for seeds in scores.values():
            seeds = [seeds] if isinstance(seeds, dict) else seeds
            cells.append(with_error([factor * score[key] for score in seeds], digits))
        columns.append([cell.rjust(max(map(len, cells)) + 2) for cell in cells])
    names = [name.ljust(max(map(len, names))) for name in names]
    return "\n".join(map("".join, zip(names, *columns)))
