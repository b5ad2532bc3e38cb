"""Race the losses of lesson 07 on the real CIFAR-100: the same net, pictures, steps and schedule for each.

    python experiments/race.py FOLDER          FOLDER holds cifar-100-python
    python experiments/race.py FOLDER --small  the same in minutes, with few pictures, its result in data/runs

Everything is chosen on validation pictures; the test pictures are looked at once, at the end. About an hour and a half
on two CPU cores, each of which trains its own net; a killed race goes on (see runner.py).
"""

import torch
from runner import DEVICE, Workers, cifar100, command_line, here, result, rounded, run_folder
from torch import nn

from colorize_utils import losses
from colorize_utils.data import Images
from colorize_utils.files import checkpoint
from colorize_utils.lab import from_network, to_network
from colorize_utils.losses import ClassCrossEntropy, WeightedMSE, rarity_weights
from colorize_utils.measuring import measure
from colorize_utils.metrics import PaintMean, ab_cells, color_frequency, colorfulness
from colorize_utils.training import PaintGrey, fit
from colorize_utils.unet import UNet

SETTINGS = {"base_width": 16, "pictures": 15_000, "validation": 2_000, "test": 10_000}
SETTINGS |= {"epochs": [4, 2], "trial_epochs": [1, 1]}  # at the learning rate, at a tenth of it
SETTINGS |= {"batch_size": 32, "learning_rates": [3e-4, 1e-3, 3e-3], "seeds": [0, 1, 2]}
SETTINGS |= {"precision": "bfloat16"}
SMALL = {"base_width": 4, "pictures": 640, "validation": 100, "test": 200}
SMALL |= {"epochs": [1, 1], "seeds": [0, 1]}

# from the frequencies of the training pictures' colours; first the rows of the table ...
LOSSES = {
    "mse": lambda frequency: nn.MSELoss(),
    "l1": lambda frequency: nn.L1Loss(),
    "huber": lambda frequency: nn.HuberLoss(delta=0.1),  # 11 units of ab; 1 would be the MSE
    "weighted_mse": lambda frequency: WeightedMSE(rarity_weights(frequency)),
    "cross_entropy": lambda frequency: ClassCrossEntropy(),
    "rebalanced": lambda frequency: ClassCrossEntropy(rarity_weights(frequency)),
}
# ... then further nets, one seed each, with the learning rate of MSE
EXTRAS = {
    "power_0.25": lambda frequency: WeightedMSE(rarity_weights(frequency, power=0.25)),
    "power_0.5": lambda frequency: WeightedMSE(rarity_weights(frequency, power=0.5)),
    "blend_0.5": lambda frequency: WeightedMSE(0.5 + 0.5 * rarity_weights(frequency)),
    "chroma": lambda frequency: WeightedMSE(by_chroma(frequency)),
    "sampled": lambda frequency: nn.MSELoss(),  # of pictures drawn as often as their pixels are rare
}


def by_chroma(frequency: torch.Tensor) -> torch.Tensor:
    a = torch.arange(-110.0, 111, 10)
    weights = 1 + torch.hypot(a[None], a[:, None]) / 20
    return weights / (frequency * weights).sum()


def fast_step(model, L, ab, loss, optimizer) -> torch.Tensor:
    """A step in bfloat16, channels-last: about twice as fast on a CPU that has instructions for it."""
    optimizer.zero_grad()
    with torch.autocast(L.device.type, torch.bfloat16):
        output = model(L.contiguous(memory_format=torch.channels_last))
    error = loss(output.float() if output.shape[1] == 2 else output, ab)
    error.backward()
    optimizer.step()
    return error


def fit_fast(images, loss, settings: dict, seed: int, rates: list[float], folder, step=fast_step):
    """Train a net, an epoch at each of the rates; Adam begins afresh where the rate changes. Net and curves."""
    torch.manual_seed(seed)
    model = UNet(out_channels=getattr(loss, "count", 2), base_width=settings["base_width"])
    model = model.to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=rates[0])

    def set_rate(history) -> None:
        rate = [*rates, rates[-1]][len(history["train"])]
        if optimizer.param_groups[0]["lr"] != rate:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.state.clear()

    return model, fit(
        model, images, epochs=len(rates), loss=loss, optimizer=optimizer, step=step, seed=seed,
        batch_size=settings["batch_size"], folder=folder, after_epoch=set_rate,
    )  # fmt: skip


# Until `matching_saturation`, all this runs in the workers, where `here` has images, settings, folder and how frequent
# the colours are: `frequency` of all 50,000 pictures, by which everything is scored, and `own` of those of the race.


def by_rarity(pictures: torch.Tensor, seed: int) -> torch.Tensor:
    """As many pictures, drawn as often as their pixels are rare."""
    weights = rarity_weights(here.own).flatten()
    cells = (ab_cells(to_network(part)[1]) for part in pictures.split(500))
    each = torch.cat([weights[part].mean(dim=(1, 2)) for part in cells])
    order = torch.Generator().manual_seed(seed)
    return pictures[torch.multinomial(each, len(each), replacement=True, generator=order)]


def train(label: str, name: str, seed: int, rate: float, epochs: list[int]) -> float:
    """Train a net in the folder `label`, or what is left of it; return its last validation error."""
    loss, images = (LOSSES | EXTRAS)[name](here.own).to(DEVICE), here.images
    if name == "sampled":
        images = images._replace(train=by_rarity(images.train, seed))
    rates, place = [rate] * epochs[0] + [rate / 10] * epochs[1], here.folder / label
    return fit_fast(images, loss, here.settings, seed, rates, place)[1]["validation"][-1]


def painter(label: str, saturation=1.0, temperature=0.38, power=0.0, uniform=0.5) -> nn.Module:
    """A trained net with what comes behind it: L (B, 1, H, W) -> ab (B, 2, H, W)."""
    if label in ("grey", "mean_color"):
        return PaintGrey() if label == "grey" else PaintMean(here.images.train)
    weights = checkpoint.read(here.folder / label / "last.pt")["model"]
    classes = len(weights["last.bias"]) > 2
    if classes:
        rare = rarity_weights(here.own, power, uniform)[losses.gamut_cells()]
        weights["last.bias"] += rare.log()  # weighted after training
    else:
        weights["last.weight"] *= saturation
        weights["last.bias"] *= saturation
    model = UNet(out_channels=len(weights["last.bias"]), base_width=here.settings["base_width"])
    model.load_state_dict(weights)
    model.to(DEVICE, memory_format=torch.channels_last)
    return nn.Sequential(model, losses.AnnealedMean(temperature).to(DEVICE)) if classes else model


def score(part: str, label: str, decoding: dict) -> dict[str, float]:
    """Every metric of a painter on a part."""
    return rounded(measure(painter(label, **decoding), getattr(here.images, part), here.frequency))


@torch.no_grad()
def answers(model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    model.eval()
    return torch.cat([model(to_network(part.to(DEVICE))[0]).cpu() for part in pictures.split(64)])


def histogram(label: str, decoding: dict) -> list[str]:
    """How many test pixels a painter puts into each cell of the ab plane, a line for each b; "truth" is no painter."""
    pictures, truth = here.images.test, label == "truth"
    ab = to_network(pictures)[1] if truth else answers(painter(label, **decoding), pictures)
    counts = torch.bincount(ab_cells(ab).flatten(), minlength=23 * 23).view(23, 23)
    return [" ".join(map(str, row)) for row in counts.tolist()]


def matching_saturation(label: str, share: float) -> float:
    """The factor by which a net's ab must be multiplied to be as colourful as `share` of the truth, on validation."""
    pictures, low, high = here.images.validation, 0.0, 8.0
    L, ab, truth = to_network(pictures)[0], answers(painter(label), pictures), colorfulness(pictures)
    for _ in range(12):
        middle = (low + high) / 2
        found = colorfulness(from_network(L, middle * ab)).mean() / truth.mean()
        low, high = (middle, high) if found < share else (low, middle)
    return round(high, 3)


def decodings(name: str) -> list[dict]:
    """What is tried behind a net, on validation."""
    if name == "cross_entropy":  # its classes weighted after training
        hows = [(0, 0.5), (0.25, 0.5), (0.5, 0.5), (1, 0.5), (0.25, 0.1), (0.35, 0.1), (0.45, 0.1)]
        hows = [{"power": x, "uniform": y} for x, y in [*hows, (0.25, 0.02), (0.35, 0.02)]]
        return [{"temperature": t, **how} for how in hows for t in (1, 0.7, 0.5, 0.38)]
    if name == "rebalanced":
        return [{"temperature": t} for t in (1, 0.7, 0.38, 0.2)]
    return [{"saturation": x} for x in (1, 1.25, 1.5) + (1.75, 2, 2.5) * (name == "mse")]


def choose_setting(front: list[dict]) -> dict:
    """The best balanced AuC of those that are colourful enough and lose little PSNR, with a margin to the targets."""
    plain = {"net": "mse", "decoding": {"saturation": 1}}
    (mse,) = (entry["validation"] for entry in front if entry | plain == entry)

    def rank(entry: dict) -> tuple[float, float]:
        found = entry["validation"]
        misses = max(0, 0.77 - found["share"]) + max(0, mse["psnr"] - 0.95 - found["psnr"])
        return round(misses, 3), -found["balanced_auc"]

    return min((entry for entry in front if entry["net"] != "mse"), key=rank)


def race(work: Workers, settings: dict) -> dict:
    """Train, choose and score everything; what `race.json` holds."""
    seeds, rates, tenth = settings["seeds"], {}, settings["trial_epochs"]
    trials = [(name, rate) for name in LOSSES for rate in settings["learning_rates"]]
    errors = work(train, [(f"trial_{n}_{rate:g}", n, 0, rate, tenth) for n, rate in trials], keep=False)
    for name in LOSSES:
        tried = {rate: round(error, 6) for (n, rate), error in zip(trials, errors) if n == name}
        rates[name] = {"tried": {f"{rate:g}": x for rate, x in tried.items()}}
        rates[name]["chosen"] = min(tried, key=tried.get)

    def net(name: str, seed: int) -> tuple:
        rate = rates.get(name, rates["mse"])["chosen"]
        return f"{name}_seed{seed}", name, seed, rate, settings["epochs"]

    nets = [net(name, seed) for seed in seeds for name in LOSSES]
    work(train, nets + [net(name, seeds[0]) for name in EXTRAS], keep=False)
    tried = [(name, how) for name in LOSSES | EXTRAS for how in decodings(name)]
    found = work(score, [("validation", f"{name}_seed{seeds[0]}", how) for name, how in tried])
    front = [{"net": name, "decoding": how, "validation": x} for (name, how), x in zip(tried, found)]
    chosen = {key: choose_setting(front)[key] for key in ("net", "decoding")}
    work(train, [net(chosen["net"], seed) for seed in seeds], keep=False)

    rows = {name: [(name, {})] for name in ("grey", "mean_color")}  # nets and what is behind them
    rows |= {name: [(f"{name}_seed{seed}", {}) for seed in seeds] for name in LOSSES}
    rows["chosen"] = [(f"{chosen['net']}_seed{seed}", chosen["decoding"]) for seed in seeds]
    for row in ("weighted_mse", "chosen"):  # the honest competitor: as colourful by its saturation alone
        found = work(score, [("validation", *one) for one in rows[row]])
        share = sum(x["share"] for x in found) / len(found)
        factors = work(matching_saturation, [(label, share) for label, _ in rows["mse"]])
        louder = [(label, {"saturation": x}) for (label, _), x in zip(rows["mse"], factors)]
        rows[f"saturated_as_{row}"] = louder

    table = {}
    for row, ones in rows.items():
        hows = [how for _, how in ones] if row.startswith("saturated") else ones[0][1]
        scores = work(score, [("test", *one) for one in ones])
        table[row] = {"net": ones[0][0].split("_seed")[0], "decoding": hows, "scores": scores}
    shown = {"truth": ("truth", {})} | {row: ones[0] for row, ones in rows.items()}
    run = {"learning_rates": rates, "rows": table, "front": front, "chosen": chosen}
    run["histograms"] = dict(zip(shown, work(histogram, list(shown.values()))))
    return run | {"metrics": {row: entry["scores"] for row, entry in table.items()}}


def main(folder, small: bool = False) -> None:
    settings = SETTINGS | (SMALL if small else {})
    place = run_folder("race_small" if small else "race", settings)

    def make() -> dict:
        images, sizes = cifar100(folder), [settings[x] for x in ("pictures", "validation", "test")]
        own = Images(*(part[:size].clone() for part, size in zip(images, sizes)))
        every = color_frequency(torch.cat([images.train, images.validation]))
        things = {"images": own, "own": color_frequency(own.train), "frequency": every}
        return race(Workers(place, settings=settings, **things), settings)

    data = {"name": "cifar100", "train": settings["pictures"], "test": settings["test"]}
    made_with = {"data": data, "seed": settings["seeds"], "settings": settings}
    result("race", made_with, make, folder=place if small else None)


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--small", action="store_true", help="minutes instead of an hour and a half")
    main(**vars(parser.parse_args()))
