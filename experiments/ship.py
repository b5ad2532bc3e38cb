"""Train the two checkpoints that the course ships in data/checkpoints, on the real CIFAR-100.

    python experiments/ship.py FOLDER      FOLDER holds cifar-100-python

48,000 of its training pictures to learn from, and 2,000 to see whether it still learns.
mse_w16.pt: the mean squared error and Adam, nothing else; a quarter of an hour on two CPU cores.
rare_colors_w16.pt: the plain cross-entropy of classes, each picture mirrored or not by chance; the setting that the
race chose is built in afterwards. Less than an hour. A killed training goes on (see runner.py).
"""

import hashlib

import torch
from race import fast_step, fit_fast
from runner import DEVICE, RESULTS, cifar100, command_line, read, result, rounded, run_folder

from colorize_utils.data import Images
from colorize_utils.files import checkpoint
from colorize_utils.losses import ClassCrossEntropy, gamut_cells, rarity_weights
from colorize_utils.measuring import measure
from colorize_utils.metrics import color_frequency
from colorize_utils.shipped import load_shipped, place

SETTINGS = {"base_width": 16, "loss": "cross-entropy", "optimizer": "Adam", "batch_size": 32}
RATES = [3e-3] * 3 + [1e-3, 3e-4]  # an epoch each
SETTINGS |= {"learning_rates": RATES, "precision": "bfloat16"}
MSE = {**SETTINGS, "loss": "MSE", "batch_size": 64, "learning_rates": [1e-3] * 10}
HELD_OUT = 2000


def mirroring_step(model, L, ab, loss, optimizer) -> torch.Tensor:
    """A step on the batch, half of its pictures mirrored."""
    mirrored = torch.rand(len(L), 1, 1, 1, device=L.device) < 0.5
    L, ab = (torch.where(mirrored, x.flip(3), x) for x in (L, ab))
    return fast_step(model, L, ab, loss, optimizer)


def small(state: dict, weights: torch.Tensor) -> dict:
    """A net's weights with its outputs weighted by the last bias, and the convolutions in half precision.

    Biases and BatchNorm's numbers stay as they are: they are few, and rounded averages of BatchNorm ruin the colours.
    """
    state = {name: value.cpu().contiguous() for name, value in state.items()}
    state["last.bias"] = state["last.bias"] + weights.log()
    return {name: value.half() if value.dim() > 1 else value for name, value in state.items()}


def digest(name: str) -> str:
    return hashlib.sha256(place(name).read_bytes()).hexdigest() if place(name).is_file() else ""


def parts(folder) -> tuple[torch.Tensor, Images, dict]:
    """All 50,000 pictures, the same split for a training, and the sizes of its parts."""
    images = cifar100(folder)
    pictures = torch.cat([images.train, images.validation])
    sizes = {"train": len(pictures) - HELD_OUT, "held_out": HELD_OUT, "test": len(images.test)}
    return pictures, Images(pictures[:-HELD_OUT], pictures[-HELD_OUT:], images.test), sizes


def write(name: str, net, state: dict, about: dict, extra: dict, test, frequency, sizes: dict) -> dict:
    """Write the checkpoint, measure what was written, and write it again with what was found."""
    size = {key: getattr(net, key) for key in ("in_channels", "out_channels", "base_width")}
    info = {**about, **extra}
    content = {"architecture": size, "info": info, "model": state}
    checkpoint.write(place(name), content)
    about["metrics"] = info["metrics"] = rounded(measure(load_shipped(DEVICE, name)[0], test, frequency))
    checkpoint.write(place(name), content)
    written = {"bytes": place(name).stat().st_size, "sha256": digest(name)}
    return {"data": {"name": "cifar100", **sizes}, **about, **written}


def ship_mse(folder) -> dict:
    pictures, images, sizes = parts(folder)
    loss, where = torch.nn.MSELoss(), run_folder("ship_mse", MSE)
    net, history = fit_fast(images, loss, MSE, 0, MSE["learning_rates"], where)
    state = small(net.state_dict(), torch.ones(()))
    about = {"settings": MSE, "curve": [round(x, 6) for x in history["validation"]]}
    return write("mse_w16", net, state, about, {}, images.test, color_frequency(pictures), sizes)


def ship(folder, settings: dict) -> dict:
    pictures, images, sizes = parts(folder)
    loss, where = ClassCrossEntropy().to(DEVICE), run_folder("ship", SETTINGS)
    net, history = fit_fast(images, loss, SETTINGS, 0, RATES, where, mirroring_step)
    frequency = color_frequency(pictures)
    weights = rarity_weights(frequency, settings["power"], settings["uniform"])
    state = small(net.state_dict(), weights[gamut_cells()])
    about = {"settings": settings, "curve": [round(x, 6) for x in history["validation"]]}
    extra = {"temperature": settings["temperature"], "loss": {"weights": weights}}
    return write("rare_colors_w16", net, state, about, extra, images.test, frequency, sizes)


def main(folder) -> None:
    made_with = {"data": {"name": "cifar100"}, "seed": 0, "settings": MSE, "sha256": digest("mse_w16")}
    result("checkpoint_mse", made_with, lambda: ship_mse(folder))
    chosen = (read(RESULTS / "race.json") or {}).get("chosen", {"net": "nothing yet: run race.py"})
    if chosen["net"] != "cross_entropy":
        raise SystemExit(f"the race chose {chosen['net']}, and this ships a net of plain classes")
    settings = {**SETTINGS, **chosen["decoding"]}
    made_with |= {"settings": settings, "sha256": digest("rare_colors_w16")}
    result("checkpoint", made_with, lambda: ship(folder, settings))


if __name__ == "__main__":
    main(command_line(__doc__).parse_args().folder)
