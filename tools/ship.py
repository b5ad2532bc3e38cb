"""Train the checkpoint that the course ships, data/checkpoints/rare_colors_w16.pt, on the real CIFAR-100.

    python tools/ship.py FOLDER      FOLDER holds cifar-100-python

All 50,000 training pictures: 48,000 to learn from, half of them mirrored, another half in each epoch, and 2,000 to see
whether it still learns. The loss is the plain cross-entropy of classes; the setting that the race chose is built in
afterwards. About an hour on two CPU cores; a killed training goes on from data/runs/ship.
"""

import argparse
import copy
import hashlib
import json
import time

import torch
from race import FastUNet
from results import DEVICE, RESULTS, ROOT, commit, provenance, write
from torch import nn

from colorize_utils.data import Images, load_images
from colorize_utils.files import checkpoint
from colorize_utils.losses import AnnealedMean, ClassCrossEntropy, gamut_cells, rarity_weights
from colorize_utils.metrics import color_frequency, measure
from colorize_utils.shipped import PATH
from colorize_utils.training import fit
from colorize_utils.unet import UNet

SETTINGS = {
    "base_width": 16,
    "loss": "cross-entropy",
    "optimizer": "Adam",
    "batch_size": 32,
    "learning_rates": [3e-3] * 3 + [1e-3, 3e-4],  # an epoch each
    "precision": "bfloat16",
}
WORK = ROOT / "data" / "runs" / "ship"


def train(learn: torch.Tensor, held_out: torch.Tensor) -> tuple[UNet, list[float]]:
    """The trained net, and its validation error after each epoch."""
    loss = ClassCrossEntropy().to(DEVICE)
    torch.manual_seed(0)
    model = FastUNet(out_channels=loss.count, base_width=SETTINGS["base_width"])
    model = model.to(DEVICE, memory_format=torch.channels_last)
    curve = []
    for epoch, rate in enumerate(SETTINGS["learning_rates"]):
        mirrored = torch.rand(len(learn), generator=torch.Generator().manual_seed(epoch)) < 0.5
        pictures = learn.clone()
        pictures[mirrored] = learn[mirrored].flip(3)
        print(f"learning rate {rate:g}", flush=True)
        history = fit(
            model, Images(pictures, held_out, held_out), epochs=1, loss=loss, seed=epoch, learning_rate=rate,
            batch_size=SETTINGS["batch_size"], folder=WORK / str(epoch),
        )  # fmt: skip
        curve.append(round(history["validation"][0], 6))
    return model, curve


def rounded(model: UNet, weights: torch.Tensor) -> UNet:
    """The plain net with the classes weighted by its last bias, its convolutions in half precision.

    Biases and BatchNorm's numbers stay as they are: they are few, and rounded averages of BatchNorm ruin the colours.
    """
    plain = UNet(out_channels=model.out_channels, base_width=model.base_width)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        plain.last.bias += weights[gamut_cells()].log()
    for kernel in plain.parameters():
        if kernel.dim() > 1:
            kernel.data = kernel.data.half()
    return plain


def main(folder) -> None:
    start, at = time.perf_counter(), commit()
    images = load_images("cifar100", folder)
    pictures = torch.cat([images.train, images.validation])
    frequency = color_frequency(pictures)
    model, curve = train(pictures[:-2000], pictures[-2000:])
    chosen = checkpoint_setting()
    weights = rarity_weights(frequency, chosen["power"], chosen["uniform"])
    small = rounded(model, weights)
    painter = nn.Sequential(copy.deepcopy(small).float(), AnnealedMean(chosen["temperature"])).to(DEVICE)
    metrics = measure(painter, images.test, frequency)
    metrics = {name: round(value, 6) for name, value in metrics.items()}
    settings = {**SETTINGS, **chosen}
    info = {
        "settings": settings,
        "curve": curve,
        "metrics": metrics,
        "temperature": chosen["temperature"],
        "loss": {"weights": weights},
    }
    checkpoint.save(PATH, small, info)
    data = {"name": "cifar100", "train": len(pictures), "test": len(images.test)}
    content = PATH.read_bytes()
    run = {
        "run": "checkpoint",
        "data": data,
        "seed": 0,
        "settings": settings,
        "curve": curve,
        "metrics": metrics,
    }
    run |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write(RESULTS / "checkpoint.json", run | provenance(start, at))
    print(metrics)


def checkpoint_setting() -> dict:
    """The decoding of the race's chosen setting."""
    chosen = json.loads((RESULTS / "race.json").read_text())["chosen"]
    if chosen["net"] != "cross_entropy":
        raise SystemExit(f"the race chose {chosen}, which is no classifier: this tool ships one")
    return chosen["decoding"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", default=ROOT / "data", help="holds cifar-100-python (default: data)"
    )
    main(parser.parse_args().folder)
