"""Train the checkpoint that the course ships, data/checkpoints/rare_colors_w16.pt, on the real CIFAR-100.

    python experiments/ship.py FOLDER      FOLDER holds cifar-100-python

48,000 of its training pictures to learn from, each mirrored or not by chance, and 2,000 to see whether it still learns.
The loss is the plain cross-entropy of classes; the setting that the race chose is built in afterwards. Less than an
hour on two CPU cores; a killed training goes on (see runner.py).
"""

import hashlib

import torch
from race import fast_step, fit_fast
from runner import DEVICE, RESULTS, cifar100, command_line, read, result, rounded, run_folder

from colorize_utils.data import Images
from colorize_utils.files import checkpoint
from colorize_utils.losses import ClassCrossEntropy, gamut_cells, rarity_weights
from colorize_utils.metrics import color_frequency, measure
from colorize_utils.shipped import PATH, load_shipped

SETTINGS = {"base_width": 16, "loss": "cross-entropy", "optimizer": "Adam", "batch_size": 32}
RATES = [3e-3] * 3 + [1e-3, 3e-4]  # an epoch each
SETTINGS |= {"learning_rates": RATES, "precision": "bfloat16"}
HELD_OUT = 2000


def mirroring_step(model, L, ab, loss, optimizer) -> torch.Tensor:
    """A step on the batch, half of its pictures mirrored."""
    mirrored = torch.rand(len(L), 1, 1, 1, device=L.device) < 0.5
    L, ab = (torch.where(mirrored, x.flip(3), x) for x in (L, ab))
    return fast_step(model, L, ab, loss, optimizer)


def small(state: dict, weights: torch.Tensor) -> dict:
    """A net's weights with its classes weighted by the last bias, and the convolutions in half precision.

    Biases and BatchNorm's numbers stay as they are: they are few, and rounded averages of BatchNorm ruin the colours.
    """
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    state["last.bias"] = state["last.bias"] + weights[gamut_cells()].log()
    return {name: value.half() if value.dim() > 1 else value for name, value in state.items()}


def digest() -> str:
    return hashlib.sha256(PATH.read_bytes()).hexdigest() if PATH.is_file() else ""


def ship(folder, settings: dict) -> dict:
    """Train, write the checkpoint, measure what was written, and write it again with what was found."""
    images = cifar100(folder)
    pictures, test = torch.cat([images.train, images.validation]), images.test
    images, loss = Images(pictures[:-HELD_OUT], pictures[-HELD_OUT:], test), ClassCrossEntropy()
    sizes = {"train": len(images.train), "held_out": HELD_OUT, "test": len(test)}
    place = run_folder("ship", SETTINGS)
    model, history = fit_fast(images, loss.to(DEVICE), SETTINGS, 0, RATES, place, mirroring_step)

    frequency = color_frequency(pictures)
    weights = rarity_weights(frequency, settings["power"], settings["uniform"])
    about = {"settings": settings, "curve": [round(x, 6) for x in history["validation"]]}
    size = {key: getattr(model, key) for key in ("in_channels", "out_channels", "base_width")}
    info = {**about, "temperature": settings["temperature"], "loss": {"weights": weights}}
    content = {"architecture": size, "info": info, "model": small(model.state_dict(), weights)}
    checkpoint.write(PATH, content)
    about["metrics"] = info["metrics"] = rounded(measure(load_shipped(DEVICE)[0], test, frequency))
    checkpoint.write(PATH, content)
    written = {"bytes": PATH.stat().st_size, "sha256": digest()}
    return {"data": {"name": "cifar100", **sizes}, **about, **written}


def main(folder) -> None:
    chosen = (read(RESULTS / "race.json") or {}).get("chosen", {"net": "nothing yet: run race.py"})
    if chosen["net"] != "cross_entropy":
        raise SystemExit(f"the race chose {chosen['net']}, and this ships a net of plain classes")
    settings = {**SETTINGS, **chosen["decoding"]}
    made_with = {"data": {"name": "cifar100"}, "seed": 0, "settings": settings, "sha256": digest()}
    result("checkpoint", made_with, lambda: ship(folder, settings))


if __name__ == "__main__":
    main(command_line(__doc__).parse_args().folder)
