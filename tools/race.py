"""Race the losses of lesson 07 on the real CIFAR-100: the same net, pictures, steps and schedule for each.

    python tools/race.py FOLDER          FOLDER holds cifar-100-python
    python tools/race.py FOLDER --small  the same in a few minutes, with few pictures, into data/runs/race_small

Everything is chosen on validation pictures; the test pictures are looked at once, at the end. What is finished lies in
data/runs/race: a killed race goes on from there, and deleting that folder runs it anew. On a CPU, each core trains
its own net.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import torch
from results import DEVICE, RESULTS, ROOT, commit, provenance, write
from torch import nn
from tqdm import tqdm

from colorize_utils.data import Images, load_images
from colorize_utils.files import checkpoint
from colorize_utils.lab import from_network, to_network
from colorize_utils.losses import (
    AnnealedMean,
    ClassCrossEntropy,
    WeightedMSE,
    gamut_cells,
    rarity_weights,
)
from colorize_utils.metrics import PaintMean, ab_cells, color_frequency, colorfulness, measure
from colorize_utils.training import PaintGrey, fit
from colorize_utils.unet import UNet

SETTINGS = {
    "base_width": 16,
    "pictures": 15_000,
    "validation": 2_000,
    "test": 10_000,
    "epochs": [4, 2],  # at the learning rate, at a tenth of it
    "trial_epochs": [1, 1],  # a third of that, to choose the learning rate
    "batch_size": 32,
    "learning_rates": [3e-4, 1e-3, 3e-3],
    "seeds": [0, 1, 2],
    "precision": "bfloat16",
}
SMALL = {
    "pictures": 640,
    "validation": 100,
    "test": 200,
    "epochs": [1, 1],
    "seeds": [0, 1],
    "base_width": 4,
}

# the rows of the table
LOSSES = ("mse", "l1", "huber", "weighted_mse", "cross_entropy", "rebalanced")
# further nets, one seed each, with the learning rate of MSE
EXTRAS = ("power_0.25", "power_0.5", "blend_0.5", "chroma", "sampled")
CLASSES = ("cross_entropy", "rebalanced")


class FastUNet(UNet):
    """The same net, computed in bfloat16 and channels-last, about twice as fast on a CPU that has instructions for it."""

    def forward(self, L: torch.Tensor) -> torch.Tensor:
        with torch.autocast(L.device.type, torch.bfloat16):
            output = super().forward(L.contiguous(memory_format=torch.channels_last))
        return output.float() if self.out_channels == 2 else output


def make_loss(name: str, frequency: torch.Tensor):
    """The loss of a run; the weights come from its own training pictures' frequencies."""
    kind, _, number = name.rpartition("_")
    full = rarity_weights(frequency)
    if name == "l1":
        return nn.L1Loss()
    if name == "huber":
        return nn.HuberLoss(delta=0.1)  # 11 units of ab; the default of 1 would be the MSE
    if name == "weighted_mse":
        return WeightedMSE(full)
    if kind == "power":
        return WeightedMSE(rarity_weights(frequency, power=float(number)))
    if kind == "blend":
        return WeightedMSE(1 - float(number) + float(number) * full)
    if name == "chroma":
        a = torch.arange(-110.0, 111, 10)
        weights = 1 + torch.hypot(a[None], a[:, None]) / 20
        return WeightedMSE(weights / (frequency * weights).sum())
    if name == "cross_entropy":
        return ClassCrossEntropy()
    if name == "rebalanced":
        return ClassCrossEntropy(full)
    return nn.MSELoss()


# ---- a worker: one net at a time ----


class Here:
    """What a worker has: settings, folder, pictures; frequencies of all training pictures, and of the race's own."""


def begin(folder, settings: dict, work: Path, threads: int) -> None:
    """Load the pictures; end when the process that began this one does."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(threads)
    Here.settings, Here.work = settings, work
    Here.images, Here.frequency = load(folder, settings)
    Here.own_frequency = color_frequency(Here.images.train)


def load(folder, settings: dict) -> tuple[Images, torch.Tensor]:
    """The race's pictures, and the frequencies of the colours in all 50,000, by which everything is measured."""
    images = load_images("cifar100", folder)
    counts = [settings[key] for key in ("pictures", "validation", "test")]
    frequency = color_frequency(torch.cat([images.train, images.validation]))
    return Images(*(part[:count].clone() for part, count in zip(images, counts))), frequency


def train(name: str, loss_name: str, seed: int, learning_rate: float, epochs: list[int]) -> float:
    """Train a net, or what is left of it, and keep it as NAME.pt; return its last validation error."""
    path = Here.work / f"{name}.pt"
    if path.is_file():
        return checkpoint.read(path)["info"]["validation"]
    loss = make_loss(loss_name, Here.own_frequency)
    images = Here.images
    if loss_name == "sampled":  # pictures as often as their pixels are rare
        weights = rarity_weights(Here.own_frequency).flatten()
        each = torch.cat(
            [weights[ab_cells(to_network(part)[1])].mean(dim=(1, 2)) for part in images.train.split(500)]
        )
        rows = torch.multinomial(
            each, len(each), replacement=True, generator=torch.Generator().manual_seed(seed)
        )
        images = images._replace(train=images.train[rows])
    torch.manual_seed(seed)
    classes = int(gamut_cells().sum()) if loss_name in CLASSES else 2
    model = FastUNet(out_channels=classes, base_width=Here.settings["base_width"])
    model = model.to(DEVICE, memory_format=torch.channels_last)
    if isinstance(loss, nn.Module):
        loss.to(DEVICE)
    history = []
    with contextlib.redirect_stdout(io.StringIO()):
        for k, count in enumerate(epochs):
            history += fit(
                model, images, epochs=count, loss=loss, batch_size=Here.settings["batch_size"],
                learning_rate=learning_rate / 10**k, seed=seed + 100 * k, folder=Here.work / name / str(k),
            )["validation"]  # fmt: skip
    info = {
        "loss": checkpoint.name_of(loss),
        "learning_rate": learning_rate,
        "seed": seed,
        "curve": history,
    }
    checkpoint.save(path, model, {**info, "validation": history[-1]})
    shutil.rmtree(Here.work / name)
    return history[-1]


class Times(nn.Module):
    """Raises the saturation: ab times a factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, ab: torch.Tensor) -> torch.Tensor:
        return ab * self.factor


class Rebalance(nn.Module):
    """Weights classes after training: logits + log(weights), which the last layer's bias could hold as well."""

    def __init__(self, power: float, uniform: float):
        super().__init__()
        weights = rarity_weights(Here.own_frequency, power, uniform)[gamut_cells()]
        self.register_buffer("shift", weights.log().view(1, -1, 1, 1))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.float() + self.shift


def painter(name: str, saturation=1.0, temperature=0.38, power=0.0, uniform=0.5) -> nn.Module:
    """A trained net with what comes behind it: L (B, 1, H, W) -> ab (B, 2, H, W)."""
    if name in ("grey", "mean_color"):
        return PaintGrey() if name == "grey" else PaintMean(Here.images.train)
    content = checkpoint.read(Here.work / f"{name}.pt")
    model = FastUNet(**content["architecture"])
    model.load_state_dict(content["model"])
    parts = [model.to(memory_format=torch.channels_last)]
    if model.out_channels > 2:
        parts += [Rebalance(power, uniform), AnnealedMean(temperature)]
    return nn.Sequential(*parts, Times(saturation)).to(DEVICE).eval()


def score(part: str, name: str, **decoding) -> dict[str, float]:
    """Every metric of a painter on a part; kept, so that nothing is measured twice."""
    label = "_".join([part, name, *(f"{key}{value:.4g}" for key, value in decoding.items())])
    path = Here.work / "scores" / f"{label}.json"
    if not path.is_file():
        found = measure(painter(name, **decoding), getattr(Here.images, part), Here.frequency)
        write(path, {key: round(value, 6) for key, value in found.items()})
    return json.loads(path.read_text())


@torch.no_grad()
def histogram(name: str, **decoding) -> list[str]:
    """How many test pixels a painter puts into each cell of the ab plane, a line for each b; "truth" is no painter."""
    model = None if name == "truth" else painter(name, **decoding)
    counts = torch.zeros(23 * 23, dtype=torch.long)
    for part in Here.images.test.split(64):
        L, ab = to_network(part.to(DEVICE))
        cells = ab_cells(ab if model is None else model(L).float())
        counts += torch.bincount(cells.flatten(), minlength=23 * 23).cpu()
    return [" ".join(map(str, row)) for row in counts.view(23, 23).tolist()]


def matching_saturation(name: str, share: float) -> float:
    """The factor by which a net's ab must be multiplied to be as colourful as `share` of the truth, on validation."""
    pictures, low, high = Here.images.validation, 0.0, 8.0
    L, _ = to_network(pictures)
    with torch.no_grad():
        ab = torch.cat([painter(name)(part.to(DEVICE)).cpu() for part in L.split(64)])
    truth = colorfulness(pictures).mean()
    for _ in range(12):
        middle = (low + high) / 2
        found = [
            colorfulness(from_network(*pair)) for pair in zip(L.split(500), (middle * ab).split(500))
        ]
        low, high = (middle, high) if torch.cat(found).mean() / truth < share else (low, middle)
    return round(high, 3)


# ---- the race ----


WEIGHTS_AFTERWARDS = [(0, 0.5), (0.25, 0.5), (0.5, 0.5), (1, 0.5)]  # power, uniform
WEIGHTS_AFTERWARDS += [(0.25, 0.1), (0.35, 0.1), (0.45, 0.1), (0.25, 0.02), (0.35, 0.02)]


def decodings(name: str) -> list[dict]:
    """What is tried behind a net, on validation."""
    if name == "cross_entropy":
        hows = [{"power": power, "uniform": uniform} for power, uniform in WEIGHTS_AFTERWARDS]
        return [{"temperature": t, **how} for how in hows for t in (1, 0.7, 0.5, 0.38)]
    if name in CLASSES:
        return [{"temperature": t} for t in (1, 0.7, 0.38, 0.2)]
    factors = (1, 1.25, 1.5, 1.75, 2, 2.5) if name == "mse" else (1, 1.25, 1.5)
    return [{"saturation": factor} for factor in factors]


class Pool:
    """Workers that do jobs side by side, and a progress bar."""

    def __init__(self, folder, settings: dict, work: Path):
        cores = os.cpu_count() or 1
        count = 1 if DEVICE == "cuda" else min(cores, 8)
        os.environ["TQDM_DISABLE"] = "1"  # in the workers, which read it when they start
        self.executor = concurrent.futures.ProcessPoolExecutor(
            count,
            multiprocessing.get_context("spawn"),
            begin,
            (folder, settings, work, max(1, cores // count)),
        )

    def __call__(self, what: str, function, jobs: dict) -> dict:
        """`function` of each job's arguments, (positional, by name), under the job's key."""
        futures = {
            self.executor.submit(function, *positional, **named): key
            for key, (positional, named) in jobs.items()
        }
        done = concurrent.futures.as_completed(futures)
        try:
            found = {futures[one]: one.result() for one in tqdm(done, what, total=len(futures))}
        except BaseException:
            self.executor.shutdown(cancel_futures=True)  # what is begun is finished and kept
            raise
        return {key: found[key] for key in jobs}


def choose_rates(pool: Pool, settings: dict) -> dict:
    """For each loss, its own validation error at each learning rate after a third of the budget, and the best."""
    trials = {
        (name, rate): ((f"trial_{name}_{rate:g}", name, 0, rate, settings["trial_epochs"]), {})
        for name in LOSSES
        for rate in settings["learning_rates"]
    }
    errors = pool("learning rates", train, trials)
    rates = {}
    for name in LOSSES:
        tried = {rate: errors[name, rate] for rate in settings["learning_rates"]}
        rates[name] = {
            "tried": {f"{rate:g}": round(error, 6) for rate, error in tried.items()},
            "chosen": min(tried, key=tried.get),
        }
    return rates


def choose_setting(front: list[dict]) -> dict:
    """The best balanced AuC of those that are colourful enough and lose little PSNR, with a margin to the targets."""
    (mse,) = (
        entry["validation"]
        for entry in front
        if entry["net"] == "mse" and entry["decoding"] == {"saturation": 1}
    )

    def misses(entry: dict) -> float:
        found = entry["validation"]
        return max(0, 0.77 - found["share"]) + max(0, mse["psnr"] - 0.95 - found["psnr"])

    rivals = [entry for entry in front if entry["net"] != "mse"]
    return min(rivals, key=lambda entry: (round(misses(entry), 3), -entry["validation"]["balanced_auc"]))


def race(folder, settings: dict, work: Path) -> dict:
    """Train, choose and score everything; what `race.json` holds."""
    pool, seeds = Pool(folder, settings, work), settings["seeds"]
    rates = choose_rates(pool, settings)

    def nets(names, some_seeds) -> dict:
        rate = {name: rates[name if name in rates else "mse"]["chosen"] for name in names}
        labels = [(name, seed) for seed in some_seeds for name in names]
        return {
            (name, seed): ((f"{name}_seed{seed}", name, seed, rate[name], settings["epochs"]), {})
            for name, seed in labels
        }

    pool("nets", train, nets(LOSSES, seeds[:1]) | nets(EXTRAS, seeds[:1]) | nets(LOSSES, seeds[1:]))
    tried = {
        (name, *decoding.items()): (("validation", f"{name}_seed{seeds[0]}"), decoding)
        for name in (*LOSSES, *EXTRAS)
        for decoding in decodings(name)
    }
    front = [
        {"net": key[0], "decoding": dict(key[1:]), "validation": found}
        for key, found in pool("the front, on validation", score, tried).items()
    ]
    chosen = choose_setting(front)
    name, decoding = chosen["net"], chosen["decoding"]
    pool("the chosen setting", train, nets([name], seeds))

    rows = {"grey": ("grey", [0], {}), "mean_color": ("mean_color", [0], {})}
    rows |= {loss: (loss, seeds, {}) for loss in LOSSES}
    rows["chosen"] = (name, seeds, decoding)

    def scores(part: str, wanted: dict) -> dict[str, list[dict]]:
        jobs = {
            (row, k): ((part, net if net in ("grey", "mean_color") else f"{net}_seed{seed}"), how)
            for row, (net, some_seeds, how) in wanted.items()
            for k, (seed, how) in enumerate(
                zip(some_seeds, how if isinstance(how, list) else [how] * len(some_seeds))
            )
        }
        found = pool(f"scores on {part}", score, jobs)
        return {row: [found[key] for key in found if key[0] == row] for row in wanted}

    validation = scores("validation", {row: rows[row] for row in ("weighted_mse", "chosen")})
    for row, found in validation.items():  # the honest competitor: as colourful, by its saturation alone
        share = sum(one["share"] for one in found) / len(found)
        jobs = {seed: ((f"mse_seed{seed}", share), {}) for seed in seeds}
        factors = pool("raised saturation", matching_saturation, jobs)
        rows[f"saturated_as_{row}"] = ("mse", seeds, [{"saturation": factors[seed]} for seed in seeds])
    test = scores("test", rows)
    shown = {"truth": (("truth",), {})}
    shown |= {
        row: (
            (net if net in ("grey", "mean_color") else f"{net}_seed{seeds[0]}",),
            how[0] if isinstance(how, list) else how,
        )
        for row, (net, _, how) in rows.items()
    }
    return {
        "settings": settings,
        "learning_rates": rates,
        "rows": {
            row: {"net": net, "decoding": how, "scores": test[row]}
            for row, (net, _, how) in rows.items()
        },
        "front": front,
        "chosen": {key: chosen[key] for key in ("net", "decoding")},
        "histograms": pool("histograms", histogram, shown),
    }


def main(folder, small: bool) -> None:
    settings = SETTINGS | (SMALL if small else {})
    work = ROOT / "data" / "runs" / ("race_small" if small else "race")
    work.mkdir(parents=True, exist_ok=True)
    made_with = work / "settings.json"
    if made_with.is_file() and json.loads(made_with.read_text()) != settings:
        raise SystemExit(f"{work} is from a race with other settings: delete it to race anew")
    write(made_with, settings)
    if not small:
        print(
            "about an hour and a half on two CPU cores with bfloat16 instructions; what is finished is kept",
            flush=True,
        )
    start, at = time.perf_counter(), commit()
    found = race(folder, settings, work)
    data = {"name": "cifar100", "train": settings["pictures"], "test": settings["test"]}
    run = {"run": "race", "data": data, "seed": settings["seeds"], **found}
    run |= {"metrics": {row: entry["scores"] for row, entry in found["rows"].items()}}
    write(work / "race.json" if small else RESULTS / "race.json", run | provenance(start, at))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", default=ROOT / "data", help="holds cifar-100-python (default: data)"
    )
    parser.add_argument(
        "--small", action="store_true", help="a few minutes instead of an hour and a half"
    )
    arguments = parser.parse_args()
    main(arguments.folder, arguments.small)
