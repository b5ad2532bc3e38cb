"""Rewrite what is generated: the repository's address, from pyproject.toml, and README's two tables, from data/results."""

import json
import re
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results"
REPOSITORY = re.compile(r"(/github(?:\.com)?/)[\w.-]+(?=/image-colorization-unet)")
COLUMNS = {"psnr": "PSNR, dB", "ssim": "SSIM", "delta_e": "ΔE00", "auc": "AuC, %"}
COLUMNS |= {"balanced_auc": "balanced AuC, %", "share": "colourfulness, %"}
DIGITS = {"ssim": 3, "share": 0}  # 2 for the others


def lessons() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def solutions() -> list[Path]:
    return sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def repository() -> str:
    """The course's address on GitHub, kept in pyproject.toml alone."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["project"]["urls"]["Repository"]


def lesson_table() -> str:
    """The lessons, from their titles and the times measured by `make lessons`."""
    seconds = result("lessons")["seconds"]
    rows = ["| lesson | what you make | time here | open |", "| --- | --- | --- | --- |"]
    for path in lessons():
        first = nbformat.read(path, as_version=4).cells[0].source
        title, makes = (re.search(x, first, re.M)[1] for x in ("^# (.+)$", "<!-- makes: (.+?) -->"))
        time = f"about {seconds[path.stem]} s" if path.stem in seconds else "–"
        rows.append(f"| [{title}](notebooks/{path.name}) | {makes} | {time} | {first.splitlines()[0]} |")
    return "\n".join(rows)


def cell(found: list[dict], key: str) -> str:
    """The mean over the seeds, ± its standard error where there are several."""
    from colorize_utils.measuring import with_error  # torch comes with it

    return with_error([(100 if key == "share" else 1) * one[key] for one in found], DIGITS.get(key, 2))


def beside(found: list[dict], other: list[dict]) -> str:
    """In which metrics one answer loses against another, and in which it gains; of ΔE00, less is better."""
    words = {"loses": [], "gains": []}
    for key in list(COLUMNS)[:5]:
        ours, theirs = (float(cell(x, key).split()[0]) for x in (found, other))  # as the table has them
        how = "gains" if (ours < theirs if key == "delta_e" else ours > theirs) else "loses"
        difference = f"{ours - theirs:+.{DIGITS.get(key, 2)}f}".replace("-", "−")
        words[how].append(f"{COLUMNS[key].split(',')[0]} ({difference})")
    return " and ".join(f"{how} in {', '.join(x)}" for how, x in words.items() if x)


def results_table() -> str:
    """The test pictures of CIFAR-100, and what the vivid answers cost."""
    race, shipped, grey = result("race"), result("checkpoint"), [result("grey")["metrics"]]
    runs = [result(path.stem) for path in sorted(RESULTS.glob("mse_w16_seed*.json"))]
    mse, weighted, best = (race["rows"][key]["scores"] for key in ("mse", "weighted_mse", "chosen"))
    alike = f"{race['settings']['pictures']:,} pictures × {sum(race['settings']['epochs'])} epochs"
    learnt = min(48_000, shipped["data"]["train"])  # an older file counts the 2,000 held out, too
    long = f"{runs[0]['data']['train']:,} pictures × {runs[0]['settings']['epochs']} epochs"
    last, shipped = f"{learnt:,} pictures × {len(shipped['curve'])} epochs", [shipped["metrics"]]
    table = {"painting everything grey": grey, f"MSE, {long}": [run["metrics"] for run in runs]}
    table |= {f"rarity-weighted MSE, {alike}": weighted, f"the race's best bargain, {alike}": best}
    table |= {f"the shipped net, {last}": shipped}
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "| --- |" + " --- |" * len(COLUMNS)]
    lines += [f"| {name} | {' | '.join(cell(x, key) for key in COLUMNS)} |" for name, x in table.items()]
    return "\n".join(lines) + (
        f"\n\n**What a vivid answer costs.** Beside painting *grey*, the best bargain {beside(best, grey)}; the shipped net "
        f"{beside(shipped, grey)}. Beside MSE in the same race, which reaches {cell(mse, 'share')} % of the truth's "
        f"colourfulness, the best bargain {beside(best, mse)}."
    )


def filled(text: str) -> str:
    """`text` with what stands between <!-- lessons --> or <!-- results --> and its end generated anew."""
    tables = {"lessons": lesson_table, "results": results_table}
    block = r"(<!-- (\w+) -->\n).*?(?=<!-- /\2 -->)"
    return re.sub(block, lambda found: f"{found[1]}{tables[found[2]]()}\n", text, flags=re.S)


def main() -> None:
    owner = repository().split("/")[-2]
    for path in [ROOT / "README.md", *lessons(), *solutions()]:
        text = REPOSITORY.sub(rf"\g<1>{owner}", filled(path.read_text(encoding="utf-8")))
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
