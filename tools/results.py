"""Train and measure on the real CIFAR-100, and on Dogs vs. Cats where it is there, one JSON a run into data/results/.

What is finished, and the checkpoints of what is not, lie in data/runs/results/: a killed measurement goes on from
there, and deleting that folder measures everything anew.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F

from colorize_utils.data import Images, is_grey, load_images
from colorize_utils.files import checkpoint
from colorize_utils.metrics import PaintMean, color_frequency, measure
from colorize_utils.training import PaintGrey, fit, train_epoch, validation_error
from colorize_utils.unet import UNet
from colorize_utils.visualization import predict

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results"
WORK = ROOT / "data" / "runs" / "results"
SETTINGS = {"base_width": 16, "loss": "MSE", "optimizer": "Adam"}
SETTINGS |= {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3}
SEEDS = (0, 1, 2)
STEPS = 100  # of the full net
PHOTOGRAPHS = {**SETTINGS, "image_size": 128, "epochs": 30, "batch_size": 16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(folder) -> Images:
    """All 50,000 pictures of the official training file to learn from, and the 10,000 test pictures.

    Nothing is chosen by the test pictures: the number of epochs is fixed and the last epoch's weights count.
    So they also stand in for the validation set, and their curve is only looked at.
    """
    if not Path(folder).is_dir():
        raise SystemExit(
            f"no folder {folder}: name the one that holds cifar-100-python, or where to download it"
        )
    images = load_images("cifar100", folder)
    return Images(torch.cat([images.train, images.validation]), images.test, images.test)


def write(path: Path, content: dict | list) -> None:
    """Replace a JSON file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def commit() -> str:
    """The repository's commit, with "-dirty" behind it if files other than results differ from it."""

    def git(*arguments) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!data/results")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")


def provenance(start: float, at: str) -> dict:
    """How long a run took since `start`, when, and with what."""
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "date": str(datetime.date.today()),
        "commit": at,
        "machine": {"system": platform.system(), "cores": os.cpu_count(), "device": DEVICE},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "torchvision", "numpy")},
    }


def run_folder(seed: int) -> Path:
    return WORK / f"mse_w16_seed{seed}"


def epochs_done(seed: int) -> int:
    """How many epochs a run has behind it."""
    last = run_folder(seed) / "last.pt"
    return len(checkpoint.read(last)["info"]["history"]["train"]) if last.is_file() else 0


def train(images: Images, seed: int) -> tuple[UNet, dict, dict]:
    """A run, or the rest of it: the model after the last epoch, the curves, and the commit and seconds an epoch."""
    note = run_folder(seed) / "notes.json"
    notes = (
        json.loads(note.read_text())
        if note.is_file()
        else {"trained_at": commit(), "seconds_per_epoch": []}
    )
    torch.manual_seed(seed)
    model = UNet(base_width=SETTINGS["base_width"]).to(DEVICE)
    chosen = {key: SETTINGS[key] for key in ("batch_size", "learning_rate")}
    for epoch in range(min(epochs_done(seed), SETTINGS["epochs"] - 1), SETTINGS["epochs"]):
        start, done = time.perf_counter(), epochs_done(seed)
        history = fit(model, images, epochs=epoch + 1, seed=seed, folder=run_folder(seed), **chosen)
        if len(history["train"]) > done:
            notes["seconds_per_epoch"].append(round(time.perf_counter() - start, 1))
            write(note, notes)
    return model, history, notes


def scores(model, images: Images) -> dict[str, float]:
    """Every metric over the test pictures, and the loss."""
    found = {"mse": validation_error(model, images.test)}
    found |= measure(model, images.test, color_frequency(images.train))
    return {name: round(value, 6) for name, value in found.items()}


def grey(images: Images) -> dict:
    """Also what PSNR becomes by other conventions: of the mean error, and over all pictures, the error floored."""
    error = ((predict(PaintGrey(), images.test) - images.test / 255) ** 2).mean(dim=(1, 2, 3))
    other = {
        "without_color": is_grey(images.test, tolerance=0).sum().item(),
        "psnr_of_the_mean": round(-10 * error.mean().log10().item(), 6),
        "psnr_of_all_floored_at_1e-10": round(-10 * error.clamp(min=1e-10).log10().mean().item(), 6),
    }
    return {"metrics": scores(PaintGrey(), images), "other_conventions": other}


def mean_color(images: Images) -> dict:
    painter = PaintMean(images.train)
    return {"settings": {"ab": [round(110 * x, 4) for x in painter.ab.flatten().tolist()]},
            "metrics": scores(painter, images)}  # fmt: skip


def seeded(seed: int):
    def run(images: Images) -> dict:
        model, history, notes = train(images, seed)
        curves = {"train": history["train"], "test": history["validation"]}
        curves = {part: [round(x, 6) for x in curve] for part, curve in curves.items()}
        return {
            "seed": seed,
            "settings": SETTINGS,
            **notes,
            "curves": curves,
            "metrics": scores(model, images),
        }

    return run


def peak_memory() -> int:
    """The most bytes that this process has had resident."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage would count the parent process, too
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def steps_of(base_width: int, pictures: torch.Tensor, steps: int) -> dict:
    """Time and peak memory of training; in a process of its own, whose peak is this net's alone."""
    batch = SETTINGS["batch_size"]
    torch.manual_seed(0)
    model = UNet(base_width=base_width).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS["learning_rate"])
    order = torch.Generator().manual_seed(0)
    train_epoch(model, pictures[: 2 * batch], optimizer, F.mse_loss, batch, order)  # warm up
    start = time.perf_counter()
    train_epoch(model, pictures[: steps * batch], optimizer, F.mse_loss, batch, order)
    seconds = (time.perf_counter() - start) / steps
    memory = {"process": peak_memory()}
    if DEVICE == "cuda":
        memory["gpu"] = torch.cuda.max_memory_allocated()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds_per_step": round(seconds, 4),
        "peak_gigabytes": {name: round(size / 1e9, 2) for name, size in memory.items()},
    }


def send(pipe, function, *arguments) -> None:
    pipe.send(function(*arguments))


def in_own_process(function, *arguments):
    """What the function returns in a fresh process, which also ends if this one is killed."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=send, args=(there, function, *arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__} ended early: is there enough memory?") from None
    finally:
        process.join()


def full_net(images: Images) -> dict:
    """Training steps of the full net, and of width 16 right after it, to compare with."""
    pictures = images.train[: STEPS * SETTINGS["batch_size"]]
    found = {width: in_own_process(steps_of, width, pictures, STEPS) for width in (64, 16)}
    settings = {**SETTINGS, "base_width": 64, "epochs": None, "steps": STEPS}
    return {"seed": 0, "settings": settings, "metrics": found[64], "width_16": found[16]}


def photographs(folder) -> dict:
    """Dogs vs. Cats through the store, by the weights of the best epoch on validation, beside two trivial answers."""
    images = load_images("dogs-vs-cats", folder, image_size=PHOTOGRAPHS["image_size"], download=False)
    torch.manual_seed(0)
    model, place = UNet(base_width=PHOTOGRAPHS["base_width"]).to(DEVICE), WORK / "dogs_vs_cats"
    chosen = {key: PHOTOGRAPHS[key] for key in ("epochs", "batch_size", "learning_rate")}
    history = fit(model, images, folder=place, **chosen)
    model, info = checkpoint.load(place / "best.pt", DEVICE)
    painters = {"grey": PaintGrey(), "mean_color": PaintMean(images.train), "unet": model}
    return {
        "data": {
            "name": "dogs-vs-cats",
            **{part: len(pictures) for part, pictures in images._asdict().items()},
        },
        "seed": 0,
        "settings": {**PHOTOGRAPHS, "best_epoch": len(info["history"]["train"])},
        "curves": {part: [round(x, 6) for x in curve] for part, curve in history.items()},
        "metrics": {name: scores(painter, images) for name, painter in painters.items()},
    }


RUNS = {"grey": grey, "mean_color": mean_color, "full_net": full_net}
RUNS |= {f"mse_w16_seed{seed}": seeded(seed) for seed in SEEDS}


def estimate(images: Images, names: list[str]) -> float:
    """Seconds that these runs will take, from a few steps of each net."""

    def per_step(width: int, steps: int) -> float:
        model, batch = UNet(base_width=width).to(DEVICE), SETTINGS["batch_size"]
        optimizer, order = torch.optim.Adam(model.parameters()), torch.Generator().manual_seed(0)
        for count in (1, steps):  # the first warms up
            start = time.perf_counter()
            train_epoch(model, images.train[: count * batch], optimizer, F.mse_loss, batch, order)
        return (time.perf_counter() - start) / steps

    total = 15.0 * len(names)  # measuring on the test pictures
    if "full_net" in names:
        total += per_step(64, 2) * STEPS
    epochs = sum(SETTINGS["epochs"] - epochs_done(k) for k in SEEDS if f"mse_w16_seed{k}" in names)
    steps = epochs * len(images.train) / SETTINGS["batch_size"]
    return total + (per_step(16, 10) * steps * 1.07 if steps else 0)  # 7 %: the test curve


def main(folder) -> None:
    images, at = load(folder), commit()
    if (Path(folder) / "dogs-vs-cats").is_dir():
        RUNS["dogs_vs_cats"] = lambda _: photographs(folder)
    else:
        print(f"no {Path(folder) / 'dogs-vs-cats'}: its run is left out")
    done = {name: WORK / f"{name}.json" for name in RUNS if (WORK / f"{name}.json").is_file()}
    if done:
        print(f"measured already: {', '.join(done)}")
        print(f"(to measure again, delete {WORK}/*.json; to train again, the whole folder)")
    for name, path in done.items():
        write(RESULTS / f"{name}.json", json.loads(path.read_text(encoding="utf-8")))
    names = [name for name in RUNS if name not in done]
    if names:
        print(f"{', '.join(names)}: about {estimate(images, names) / 60:.0f} minutes in all", flush=True)
    for name in names:
        print(f"\n{name}", flush=True)
        start = time.perf_counter()
        found = RUNS[name](images)
        data = {"name": "cifar100", "train": len(images.train), "test": len(images.test)}
        data["fingerprint"] = checkpoint.fingerprint(images.train)
        run = {
            "run": name,
            "data": data,
            "seed": None,
            "settings": None,
            **found,
            **provenance(start, at),
        }
        print(json.dumps(run["metrics"], indent=1), flush=True)
        write(WORK / f"{name}.json", run)
        write(RESULTS / f"{name}.json", run)
    print(f"\nin {RESULTS}: {', '.join(f'{name}.json' for name in RUNS)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", default=ROOT / "data", help="holds cifar-100-python (default: data)"
    )
    main(parser.parse_args().folder)
