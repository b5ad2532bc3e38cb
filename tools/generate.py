"""Rewrite what is generated: the repository's address, from pyproject.toml, and every table and plot, from data/results."""

import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results"
REPOSITORY = re.compile(r"(/github(?:\.com)?/)[\w.-]+(?=/image-colorization-unet)")


def lessons() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def result(name: str) -> dict:
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        makes = {"lessons": "make lessons", "bench": "make bench", "memory": "benchmarks/memory.py"}
        makes = makes.get(name, "make results")
        raise SystemExit(f"no {path.relative_to(ROOT)}: run {makes} first")
    return json.loads(path.read_text(encoding="utf-8"))


def seeds() -> list[dict]:
    """The runs of width 16, MSE and Adam."""
    return [result(path.stem) for path in sorted(RESULTS.glob("mse_w16_seed*.json"))]


def repository() -> str:
    """The course's address on GitHub, kept in pyproject.toml alone."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"][
        "Repository"
    ]


def lesson_table() -> str:
    """The lessons, from their titles and the times measured by `make lessons`."""
    seconds = result("lessons")["seconds"]
    rows = ["| lesson | what you make | time here | open |", "| --- | --- | --- | --- |"]
    for path in lessons():
        first = nbformat.read(path, as_version=4).cells[0].source
        title = re.search(r"^# (.+)$", first, re.M)[1]
        badge = first.splitlines()[0]
        makes = re.search(r"<!-- makes: (.+?) -->", first)[1]
        rows.append(
            f"| [{title}](notebooks/{path.name}) | {makes} | about {seconds[path.stem]} s | {badge} |"
        )
    return "\n".join(rows)


def sample_table() -> str:
    """The errors on the shipped photographs, as measured by `make lessons`."""
    rows = ["| pictures | painting grey | U-Net |", "| --- | --- | --- |"]
    what = {"validation": "validation: unseen parts of seen scenes", "test": "test: a scene never seen"}
    for part, error in result("lessons")["errors"].items():
        rows.append(f"| {what[part]} | {error['grey']:.4f} | {error['U-Net']:.4f} |")
    return "\n".join(rows)


def mean_and_spread(values: list[float], digits: int) -> str:
    """The mean, and half of the range."""
    spread = (max(values) - min(values)) / 2
    return f"{sum(values) / len(values):.{digits}f}" + (
        f" ± {spread:.{digits}f}" if len(values) > 1 else ""
    )


def cifar100_table() -> str:
    """The test pictures of CIFAR-100: two trivial answers, and the net of width 16, as measured by `make results`."""
    columns = {"psnr": 2, "ssim": 3, "delta_e": 2, "auc": 2, "balanced_auc": 2, "colorfulness": 1}
    rows = [
        "| | PSNR, dB | SSIM | ΔE00 | AuC, % | balanced AuC, % | colourfulness | share of the truth's |"
    ]
    rows.append("| --- |" + " --- |" * (len(columns) + 1))
    unet = seeds()
    painters = {
        "painting everything grey": [result("grey")],
        "painting everything in the mean colour": [result("mean_color")],
        f"U-Net of width 16, MSE, Adam, {unet[0]['settings']['epochs']} epochs, {len(unet)} seeds": unet,
    }
    for name, runs in painters.items():
        cells = [
            mean_and_spread([run["metrics"][key] for run in runs], digits)
            for key, digits in columns.items()
        ]
        share = mean_and_spread([100 * run["metrics"]["share"] for run in runs], 0)
        rows.append(f"| {name} | {' | '.join(cells)} | {share} % |")
    return "\n".join(rows)


def conventions() -> str:
    """Lesson 6: what PSNR says about grey by three conventions."""
    grey, other = result("grey")["metrics"], result("grey")["other_conventions"]
    return (
        f"On the test pictures of CIFAR-100, grey's PSNR of the mean is {other['psnr_of_the_mean']:.2f} dB. The mean of its PSNRs is "
        f"{other['psnr_of_all_floored_at_1e-10']:.2f} dB if the {other['without_color']} pictures without any colour are counted, too: "
        "those ought to get infinitely many decibels, and what they do get depends on rounding and on the small number that the "
        "code puts in place of 0 (here 1e-10). Our main figure is the **mean of the PSNRs over all pictures that are not exactly "
        f"grey**, {grey['psnr']:.2f} dB for grey. Whichever you choose, write down which."
    )


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.2g} s"


def cost() -> str:
    """What a training step costs, as measured by `make results`."""
    run = result("full_net")
    full, small, settings = run["metrics"], run["width_16"], run["settings"]
    where = f"{run['machine']['cores']} CPU cores" if run["machine"]["device"] == "cpu" else "a GPU"
    epoch = small["seconds_per_step"] * seeds()[0]["data"]["train"] / settings["batch_size"]
    return (
        f"On {where}, a training step of the full net ({full['parameters']:,} parameters, {settings['batch_size']} pictures of "
        f"32 × 32) takes about {duration(full['seconds_per_step'])}, and its process peaks at {full['peak_gigabytes']['process']:.1f} GB "
        f"over {settings['steps']} steps. The same net at width 16 steps {full['seconds_per_step'] / small['seconds_per_step']:.0f} "
        f"times as fast and peaks at {small['peak_gigabytes']['process']:.1f} GB: an epoch of CIFAR-100 in about {duration(epoch)}."
    )


def memory_table() -> str:
    """What `benchmarks/memory.py` measured."""
    run = result("memory")
    settings, sizes = run["settings"], run["sizes"]
    rows = [
        f"| photographs at {settings['image_size']} × {settings['image_size']} | "
        + " | ".join(f"{int(n):,}" for n in sizes)
        + " |"
    ]
    rows.append("| --- |" + " --- |" * len(sizes))
    what = {
        "prepare_mb": "memory while they are prepared",
        "train_mb": f"memory of {settings['steps']} training steps, width {settings['base_width']}, {settings['batch_size']} pictures each",
    }
    for key, text in what.items():
        rows.append(
            f"| {text} | "
            + " | ".join(f"{size[key]['peak'] / 1e3:.2f} GB" for size in sizes.values())
            + " |"
        )
    usual = (f"{int(n) * run['float64_lab_gb'] / max(map(int, sizes)):.2g} GB" for n in sizes)
    rows.append(f"| the usual way: float64 Lab in memory (computed) | {' | '.join(usual)} |")
    growth = run["growth_mb"]
    return "\n".join(rows) + (
        f"\n\n(Anonymous memory at its highest, libraries included. From the smaller to the larger set it changes by "
        f"{growth['prepare']:+d} MB in preparing and by {growth['train']:+d} MB in training.)"
    )


def photographs_table() -> str:
    """The test pictures of Dogs vs. Cats, as measured by `make results`."""
    run = result("dogs_vs_cats")
    columns = {"psnr": 2, "ssim": 3, "delta_e": 2, "auc": 2, "balanced_auc": 2}
    rows = [
        "| | PSNR, dB | SSIM | ΔE00 | AuC, % | balanced AuC, % | share of the truth's colourfulness |"
    ]
    rows.append("| --- |" + " --- |" * 6)
    epoch, settings = run["settings"]["best_epoch"], run["settings"]
    names = {"grey": "painting everything grey", "mean_color": "painting everything in the mean colour"}
    names["unet"] = (
        f"U-Net of width {settings['base_width']}, MSE, Adam, best of {settings['epochs']} epochs on validation ({epoch})"
    )
    for key, name in names.items():
        found = run["metrics"][key]
        cells = " | ".join(f"{found[column]:.{digits}f}" for column, digits in columns.items())
        rows.append(f"| {name} | {cells} | {100 * found['share']:.0f} % |")
    data = run["data"]
    return "\n".join(rows) + (
        f"\n\n({data['train']} photographs to learn from, {data['validation']} to choose the epoch, {data['test']} to test, "
        f"{settings['image_size']} × {settings['image_size']} pixels: far too few for a verdict; they show that the path works.)"
    )


def bench_table() -> str:
    """The ratios that `make bench` measured."""
    what = {
        "training_loop": "`fit`'s loop, beside the same net on one batch that is already there",
        "lab_conversion": "RGB to Lab, beside scikit-image picture by picture",
        "delivery": "batches of normalised L and ab, beside PIL, scikit-image and a DataLoader with two workers",
        "preparation": "preparing JPEGs at 128 × 128, beside the bare decoder and resizer on all cores",
        "streaming": "batches of L and ab at 128 × 128 from the disk, beside the usual way from JPEGs, two workers",
        "streaming_compiled": "the same, with the conversion compiled",
        "streaming_loop": "`fit`'s loop on them, beside the same net on one batch that is already there",
    }
    rows = ["| what, beside what | times as fast | goal |", "| --- | --- | --- |"]
    for name, text in what.items():
        found = result("bench")[name]
        rows.append(f"| {text} | {found['ratio']:.3g} | ≥ {found['goal']:g} |")
    return "\n".join(rows)


RACERS = {
    "grey": "painting everything grey",
    "mean_color": "painting everything in the mean colour",
    "mse": "MSE",
    "l1": "L1",
    "huber": "Huber, from 11 units of ab on",
    "saturated_as_weighted_mse": "MSE, its saturation × {saturation:.2f}",
    "weighted_mse": "rarity-weighted MSE",
    "cross_entropy": "cross-entropy, T = 0.38",
    "rebalanced": "rebalanced cross-entropy, T = 0.38",
    "saturated_as_chosen": "MSE, its saturation × {saturation:.2f}",
    "chosen": "**{chosen}**",
}
NETS = {
    **{name: text for name, text in RACERS.items() if name in ("mse", "l1", "huber", "weighted_mse")},
    "cross_entropy": "cross-entropy",
    "rebalanced": "rebalanced cross-entropy",
    "power_0.25": "rarity-weighted MSE, power ¼",
    "power_0.5": "rarity-weighted MSE, power ½",
    "blend_0.5": "half MSE, half rarity-weighted MSE",
    "chroma": "MSE weighted by chroma",
    "sampled": "MSE, pictures sampled by rarity",
}


def setting(net: str, decoding: dict) -> str:
    """A net of the race and what comes behind it, in words."""
    parts = [NETS[net]]
    if decoding.get("power"):
        parts.append(f"weighted afterwards (power {decoding['power']:g}, λ = {decoding['uniform']:g})")
    if "temperature" in decoding:
        parts.append(f"T = {decoding['temperature']:g}")
    if decoding.get("saturation", 1) != 1:
        parts.append(f"saturation × {decoding['saturation']:g}")
    return ", ".join(parts)


def racer_name(row: str, run: dict) -> str:
    """A row of the race's table, in words."""
    how = run["rows"][row]["decoding"]
    factors = [one["saturation"] for one in how] if isinstance(how, list) else [1]
    chosen = setting(run["chosen"]["net"], run["chosen"]["decoding"])
    return RACERS[row].format(saturation=sum(factors) / len(factors), chosen=chosen)


def mean_and_error(values: list[float], digits: int) -> str:
    """The mean over the seeds and its standard error."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    error = (sum((x - mean) ** 2 for x in values) / (len(values) - 1) / len(values)) ** 0.5
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def race_table() -> str:
    """The race of the losses on the test pictures of CIFAR-100, as measured by `make results`."""
    run = result("race")
    columns = {"psnr": 2, "ssim": 3, "delta_e": 2, "auc": 2, "balanced_auc": 2, "share": 0}
    rows = [
        "| | PSNR, dB | SSIM | ΔE00 | AuC, % | balanced AuC, % | share of the truth's colourfulness |"
    ]
    rows.append("| --- |" + " --- |" * len(columns))
    for name in RACERS:
        scores = run["rows"][name]["scores"]
        cells = [
            mean_and_error([one[key] * (100 if key == "share" else 1) for one in scores], digits)
            for key, digits in columns.items()
        ]
        rows.append(f"| {racer_name(name, run)} | {' | '.join(cells)} % |")
    settings = run["settings"]
    return "\n".join(rows) + (
        f"\n\n(Width {settings['base_width']}, {settings['pictures']:,} pictures × {sum(settings['epochs'])} epochs, "
        f"{len(settings['seeds'])} seeds, mean ± standard error on {run['data']['test']:,} test pictures. The learning rate of "
        f"each loss, the last row's setting and the saturations were chosen on {settings['validation']:,} validation pictures.)"
    )


def mean_scores(row: str) -> dict[str, float]:
    """A row of the race, the mean of its seeds."""
    scores = result("race")["rows"][row]["scores"]
    return {key: sum(one[key] for one in scores) / len(scores) for key in scores[0]}


def race_verdict() -> str:
    """What the race found, in two sentences."""
    run = result("race")
    mse, weighted, chosen, louder = map(
        mean_scores, ("mse", "weighted_mse", "chosen", "saturated_as_chosen")
    )
    differences = {
        key: [
            one[key] - other[key]
            for one, other in zip(
                *(run["rows"][row]["scores"] for row in ("chosen", "saturated_as_chosen"))
            )
        ]
        for key in ("balanced_auc", "delta_e")
    }
    balanced, difference = (chosen[key] - louder[key] for key in ("balanced_auc", "delta_e"))
    noise = mean_and_error(differences["balanced_auc"], 1).split("± ")[1]
    return (
        f"Weighting the squared error by rarity raises the colourfulness from {100 * mse['share']:.0f} % to {100 * weighted['share']:.0f} % of the "
        f"truth's and the balanced AuC by {weighted['balanced_auc'] - mse['balanced_auc']:.1f} points, and costs "
        f"{mse['psnr'] - weighted['psnr']:.1f} dB of PSNR. The best bargain that we found ({setting(**run['chosen'])}) reaches "
        f"{100 * chosen['share']:.0f} % for {mse['psnr'] - chosen['psnr']:.1f} dB; beside MSE with its saturation raised to the same "
        f"colourfulness, its balanced AuC is {abs(balanced):.1f} ± {noise} points {'higher' if balanced > 0 else 'lower'} and its ΔE00 "
        f"{abs(difference):.2f} {'lower' if difference < 0 else 'higher'}."
    )


def race_targets() -> str:
    """The goals that were set before the race, and what became of them: mean ± standard error, differences seed by seed."""
    rows = ["| goal | wanted | found | met |", "| --- | --- | --- | --- |"]

    def values(row: str, key: str) -> list[float]:
        return [
            one[key] * (100 if key == "share" else 1) for one in result("race")["rows"][row]["scores"]
        ]

    goals = [
        ("rarity-weighted MSE: colourfulness, %", "≥ 90", "share", "weighted_mse", None, 0),
        ("rarity-weighted MSE: balanced AuC beside MSE's", "≥ 2.5", "balanced_auc", "weighted_mse", "mse", 2),
        ("best bargain: colourfulness, %", "≥ 75", "share", "chosen", None, 0),
        ("best bargain: PSNR beside MSE's, dB", "≥ -1.0", "psnr", "chosen", "mse", 2),
        ("best bargain: balanced AuC beside equally colourful MSE's", "> 0", "balanced_auc", "chosen", "saturated_as_chosen", 2),
        ("best bargain: ΔE00 beside equally colourful MSE's", "< 0", "delta_e", "chosen", "saturated_as_chosen", 2),
    ]  # fmt: skip
    for what, wanted, key, row, rival, digits in goals:
        found = values(row, key)
        if rival:
            found = [x - y for x, y in zip(found, values(rival, key))]
        mean, (sign, limit) = sum(found) / len(found), wanted.split()
        met = (
            mean < float(limit)
            if sign == "<"
            else mean > float(limit) or (sign == "≥" and mean == float(limit))
        )
        spread = mean_and_error(found, digits)
        certain = (
            ""
            if abs(mean - float(limit)) > 2 * float(spread.split("± ")[1])
            else ", but within the noise of the seeds"
        )
        rows.append(f"| {what} | {wanted} | {spread} | {'yes' + certain if met else '**no**'} |")
    return "\n".join(rows)


def checkpoint_table() -> str:
    """The shipped checkpoint on the test pictures of CIFAR-100."""
    run, grey = result("checkpoint"), result("grey")["metrics"]
    columns = {"psnr": 2, "ssim": 3, "delta_e": 2, "auc": 2, "balanced_auc": 2}
    rows = [
        "| | PSNR, dB | SSIM | ΔE00 | AuC, % | balanced AuC, % | share of the truth's colourfulness |"
    ]
    rows.append("| --- |" + " --- |" * 6)
    for name, found in (("painting everything grey", grey), ("the shipped checkpoint", run["metrics"])):
        cells = " | ".join(f"{found[column]:.{digits}f}" for column, digits in columns.items())
        rows.append(f"| {name} | {cells} | {100 * found['share']:.0f} % |")
    settings = run["settings"]
    return "\n".join(rows) + (
        f"\n\n(Width {settings['base_width']}, {run['data']['train']:,} pictures × {len(run['curve'])} epochs; "
        f"{setting('cross_entropy', settings)}; {run['bytes'] / 1e6:.1f} MB, sha256 `{run['sha256'][:16]}…`.)"
    )


TABLES = {
    "lessons": lesson_table,
    "sample": sample_table,
    "cifar100": cifar100_table,
    "conventions": conventions,
    "cost": cost,
    "race": race_table,
    "verdict": race_verdict,
    "targets": race_targets,
    "checkpoint": checkpoint_table,
    "memory": memory_table,
    "photographs": photographs_table,
    "bench": bench_table,
}


def filled(text: str) -> str:
    """`text` with everything between <!-- NAME --> and <!-- /NAME --> generated anew, for the names in TABLES."""
    for name, table in TABLES.items():
        block = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.S)
        text = block.sub(lambda _, table=table: table() + "\n", text)
    return text


def pyplot():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def curve_numbers() -> list:
    return [[run["curves"] for run in seeds()], result("grey")["metrics"]["mse"]]


def draw_curves():
    """README's plot: training and test error of each seed, beside grey."""
    figure, axis = pyplot().subplots(figsize=(5, 3), layout="constrained")
    for part, style in (("train", "--"), ("test", "-")):
        for k, run in enumerate(seeds()):
            curve = run["curves"][part]
            label = f"{part}, {len(seeds())} seeds" if k == 0 else None
            axis.plot(
                range(1, len(curve) + 1),
                curve,
                style,
                color=f"C{part == 'test':d}",
                linewidth=1,
                label=label,
            )
    axis.axhline(
        result("grey")["metrics"]["mse"], color="grey", linestyle=":", label="test, painted grey"
    )
    axis.set(xlabel="epoch", ylabel="mean squared error of ab/110", title="CIFAR-100, U-Net of width 16")
    axis.set_ylim(bottom=0)
    axis.legend()
    return figure


def front_numbers() -> list:
    run = result("race")
    return [run["front"], run["chosen"]]


FAMILIES = {  # label: which nets, line
    "MSE, saturation raised": (("mse",), "k--o"),
    "L1, Huber": (("l1", "huber"), "C7-s"),
    "rarity-weighted MSE, powers ¼ to 1": (
        ("power_0.25", "power_0.5", "weighted_mse"),
        "C0-o",
    ),
    "other weights": (("blend_0.5", "chroma", "sampled"), "C2:^"),
    "classes, weighted in training": (("rebalanced",), "C3-D"),
    "classes, weighted afterwards": (("cross_entropy",), "C1-"),
}


def draw_front():
    """PSNR, balanced AuC and ΔE00 against colourfulness, of every net and what was tried behind it."""
    run = result("race")
    figure, axes = pyplot().subplots(1, 3, figsize=(10, 3.9), layout="constrained")
    for axis, (key, name) in zip(
        axes, {"psnr": "PSNR, dB", "balanced_auc": "balanced AuC, %", "delta_e": "ΔE00"}.items()
    ):
        for label, (nets, style) in FAMILIES.items():
            lines = {}
            for entry in run["front"]:
                if entry["net"] in nets:
                    found = entry["validation"]
                    line = lines.setdefault(
                        (entry["net"], entry["decoding"].get("power"), entry["decoding"].get("uniform")),
                        [],
                    )
                    line.append((100 * found["share"], found[key]))
            for k, line in enumerate(lines.values()):
                axis.plot(
                    *zip(*line), style, markersize=3, linewidth=0.9, label=label if k == 0 else None
                )
        (chosen,) = (
            e["validation"]
            for e in run["front"]
            if {k: e[k] for k in ("net", "decoding")} == run["chosen"]
        )
        axis.plot(
            100 * chosen["share"], chosen[key], "*", color="C6", markersize=12, label="the best bargain"
        )
        axis.set(xlabel="colourfulness, % of the truth's", title=name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


SHOWN = (
    "truth",
    "mse",
    "saturated_as_weighted_mse",
    "l1",
    "weighted_mse",
    "cross_entropy",
    "rebalanced",
    "chosen",
)


def histogram_numbers() -> list:
    return [result("race")["histograms"][name] for name in SHOWN]


def draw_histograms():
    """The ab plane of the test pictures and of what some painters make of them."""
    import numpy as np

    figure, axes = pyplot().subplots(
        2, 4, figsize=(8, 4.4), layout="constrained", sharex=True, sharey=True
    )
    names = {
        **RACERS,
        "truth": "truth",
        "saturated_as_weighted_mse": "MSE, saturation raised",
        "chosen": "the best bargain",
    }
    for axis, name, lines in zip(axes.flat, SHOWN, histogram_numbers()):
        counts = np.array([line.split() for line in lines], dtype=float)
        with np.errstate(divide="ignore"):
            shown = np.log10(counts / counts.sum())
        axis.imshow(shown, origin="lower", extent=(-115, 115) * 2, cmap="magma", vmin=-6, vmax=-0.5)
        axis.set_facecolor("black")
        axis.set_title(names[name], fontsize=8)
    figure.supxlabel("a: green to red", fontsize=9)
    figure.supylabel("b: blue to yellow", fontsize=9)
    return figure


PLOTS = {
    "curves.png": (curve_numbers, draw_curves),
    "front.png": (front_numbers, draw_front),
    "ab_histograms.png": (histogram_numbers, draw_histograms),
}


def digest_of(name: str) -> str:
    """Tells whether a plot was drawn from the files as they are."""
    return hashlib.sha256(json.dumps(PLOTS[name][0]()).encode()).hexdigest()


def digest_in(name: str) -> str:
    """The digest of the numbers from which a plot was drawn; "" where there is none."""
    if not (RESULTS / name).is_file():
        return ""
    with Image.open(RESULTS / name) as plot:
        return plot.text.get("Description", "")


def main() -> None:
    owner = repository().split("/")[-2]

    def renewed(text: str) -> str:
        return REPOSITORY.sub(rf"\g<1>{owner}", filled(text))

    readme = renewed((ROOT / "README.md").read_text(encoding="utf-8"))
    notebooks = {path: nbformat.read(path, as_version=4) for path in lessons()}
    for notebook in notebooks.values():
        for cell in notebook.cells:
            cell.source = renewed(cell.source)
    for path, notebook in notebooks.items():
        nbformat.write(notebook, path)
    (ROOT / "README.md").write_text(readme, encoding="utf-8", newline="\n")
    for name, (_, draw) in PLOTS.items():
        if digest_in(name) != digest_of(name):
            draw().savefig(RESULTS / name, dpi=150, metadata={"Description": digest_of(name)})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        raise SystemExit(f"{__doc__}\nIt takes no arguments.")
    main()
