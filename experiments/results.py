"""Train and measure on the real CIFAR-100, and on Dogs vs. Cats where it is there, one JSON a run into data/results.

    python experiments/results.py FOLDER     FOLDER holds cifar-100-python

About an hour and a half on two CPU cores. What is measured already is kept, and a killed run goes on (see runner.py).
"""

import hashlib
import re
import time
from pathlib import Path

import runner
import torch
from runner import DEVICE, alone, cifar100, command_line, read, result, rounded, run_folder

from colorize_utils.data import Images, is_grey, load_images
from colorize_utils.files import checkpoint
from colorize_utils.measuring import measure
from colorize_utils.metrics import PaintMean, color_frequency
from colorize_utils.training import PaintGrey, fit, train_epoch, validation_error
from colorize_utils.unet import UNet
from colorize_utils.visualization import predict

SETTINGS = {"base_width": 16, "loss": "MSE", "optimizer": "Adam"}
SETTINGS |= {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3}
PHOTOGRAPHS = {**SETTINGS, "image_size": 128, "epochs": 30, "batch_size": 16}
FULL = {**SETTINGS, "base_width": 64, "epochs": None, "steps": 100}


def load(folder) -> Images:
    """All 50,000 pictures of the training file, and the 10,000 test pictures, which choose nothing: the last epoch counts.

    So the test pictures also stand in for validation; their curve is only looked at.
    """
    images = cifar100(folder)
    return Images(torch.cat([images.train, images.validation]), images.test, images.test)


def scores(model, images: Images) -> dict[str, float]:
    """Every metric over the test pictures, and the loss."""
    found = {"mse": validation_error(model, images.test)}
    return rounded(found | measure(model, images.test, color_frequency(images.train)))


def grey(images: Images) -> dict:
    """Also what PSNR becomes by other conventions: of the mean error, and over all pictures, the error floored."""
    error = ((predict(PaintGrey(), images.test) - images.test / 255) ** 2).mean(dim=(1, 2, 3))
    other = {"without_color": is_grey(images.test, tolerance=0).sum().item()}
    other["psnr_of_the_mean"] = -10 * error.mean().log10().item()
    other["psnr_of_all_floored_at_1e-10"] = -10 * error.clamp(min=1e-10).log10().mean().item()
    return {"metrics": scores(PaintGrey(), images), "other_conventions": rounded(other)}


def mean_color(images: Images) -> dict:
    painter = PaintMean(images.train)
    ab = [round(110 * x, 4) for x in painter.ab.flatten().tolist()]
    return {"settings": {"ab": ab}, "metrics": scores(painter, images)}


def train(images: Images, settings: dict, folder: Path, seed=0, **more) -> tuple[UNet, dict]:
    """A net trained in `folder`, or the rest of it, and its curves."""
    torch.manual_seed(seed)
    model = UNet(base_width=settings["base_width"]).to(DEVICE)
    more |= {key: settings[key] for key in ("epochs", "batch_size", "learning_rate")}
    history = fit(model, images, seed=seed, folder=folder, **more)
    return model, {part: [round(x, 6) for x in curve] for part, curve in history.items()}


def seeded(images: Images, seed: int) -> dict:
    """A net trained from a seed, with the commit and the seconds of each epoch."""
    folder, start = run_folder(f"mse_w16_seed{seed}", SETTINGS), time.perf_counter()
    notes = read(folder / "notes.json") or {"trained_at": runner.commit(), "seconds_per_epoch": []}

    def note(history) -> None:
        nonlocal start
        done, now = len(history["train"]) - 1, time.perf_counter()  # an epoch may be noted and then lost
        notes["seconds_per_epoch"][done:], start = [round(now - start, 1)], now
        runner.write(folder / "notes.json", notes)

    model, curves = train(images, SETTINGS, folder, seed, after_epoch=note)
    curves = {"train": curves["train"], "test": curves["validation"]}
    return {**notes, "curves": curves, "metrics": scores(model, images)}


def steps_of(base_width: int, pictures: torch.Tensor) -> dict:
    """Time and peak memory of a net's training steps; in a process of its own, whose peak is this net's alone."""
    batch = FULL["batch_size"]
    torch.manual_seed(0)
    model = UNet(base_width=base_width).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=FULL["learning_rate"])
    train_epoch(model, pictures[: 2 * batch], optimizer, batch_size=batch)  # warm up
    start = time.perf_counter()
    train_epoch(model, pictures, optimizer, batch_size=batch)
    found = {"parameters": sum(p.numel() for p in model.parameters())}
    found["seconds_per_step"] = round((time.perf_counter() - start) * batch / len(pictures), 4)
    memory = {"process": peak_memory(), "gpu": torch.cuda.max_memory_allocated()}  # 0 without a GPU
    memory = {name: round(size / 1e9, 2) for name, size in memory.items() if size}
    return found | {"peak_gigabytes": memory}


def peak_memory() -> int:
    """The most bytes that this process has had resident."""
    if Path("/proc/self/status").is_file():  # Linux, where getrusage would count the parent, too
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def full_net(images: Images) -> dict:
    """Training steps of the full net, and of width 16 right after it, to compare with."""
    pictures = images.train[: FULL["steps"] * FULL["batch_size"]].clone()
    found, small = (alone(steps_of, x["base_width"], pictures) for x in (FULL, SETTINGS))
    return {"metrics": found, "width_16": small}


def photographs(images: Images, folder: Path) -> dict:
    """Dogs vs. Cats, by the weights of the best epoch on validation, beside two trivial answers."""
    model, curves = train(images, PHOTOGRAPHS, folder)
    best = checkpoint.read(folder / "best.pt")
    model.load_state_dict(best["model"])
    painters = {"grey": PaintGrey(), "mean_color": PaintMean(images.train), "unet": model}
    metrics = {name: scores(painter, images) for name, painter in painters.items()}
    settings = {**PHOTOGRAPHS, "best_epoch": len(best["history"]["train"])}
    return {"settings": settings, "curves": curves, "metrics": metrics}


def main(folder) -> None:
    images = load(folder)
    data = {"name": "cifar100", "train": len(images.train), "test": len(images.test)}
    some = images.train[:: max(1, len(images.train) // 64)].numpy().tobytes()
    data["fingerprint"] = f"{tuple(images.train.shape)}, {hashlib.sha256(some).hexdigest()[:12]}"

    def run(name: str, make, seed=None, settings=None, *arguments) -> None:
        made_with = {"data": data, "seed": seed, "settings": settings}
        result(name, made_with, lambda: make(images, *arguments))

    run("grey", grey)
    run("mean_color", mean_color)
    run("full_net", full_net, 0, FULL)
    for seed in range(3):
        run(f"mse_w16_seed{seed}", seeded, seed, SETTINGS, seed)
    if not (Path(folder) / "dogs-vs-cats").exists():
        return print(f"no {Path(folder) / 'dogs-vs-cats'}: its run is left out")
    images = load_images("dogs-vs-cats", folder, image_size=PHOTOGRAPHS["image_size"], download=False)
    data = {"name": "dogs-vs-cats"} | {part: len(some) for part, some in images._asdict().items()}
    run("dogs_vs_cats", photographs, 0, PHOTOGRAPHS, run_folder("dogs_vs_cats", PHOTOGRAPHS | data))


if __name__ == "__main__":
    main(command_line(__doc__).parse_args().folder)
