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
CURVES = RESULTS / "curves.png"
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


TABLES = {
    "lessons": lesson_table,
    "sample": sample_table,
    "cifar100": cifar100_table,
    "conventions": conventions,
    "cost": cost,
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


def digest_of_curves() -> str:
    """Tells whether the plot was drawn from the files as they are."""
    numbers = [[run["curves"] for run in seeds()], result("grey")["metrics"]["mse"]]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def digest_in_plot() -> str:
    """The digest of the numbers from which README's plot was drawn; "" where there is none."""
    if not CURVES.is_file():
        return ""
    with Image.open(CURVES) as plot:
        return plot.text.get("Description", "")


def draw_curves() -> None:
    """README's plot: training and test error of each seed, beside grey."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
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
    figure.savefig(CURVES, dpi=150, metadata={"Description": digest_of_curves()})


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
    if digest_in_plot() != digest_of_curves():
        draw_curves()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        raise SystemExit(f"{__doc__}\nIt takes no arguments.")
    main()
