"""Export, execute and refresh the lessons. `python tools/lessons.py --help` lists what it does."""

import argparse
import ast
import datetime
import json
import os
import platform
import re
import shutil
import time
from pathlib import Path

import generate
import nbformat
from generate import RESULTS, ROOT, lessons
from nbclient import NotebookClient
from tqdm import tqdm

NOTEBOOKS = ROOT / "notebooks"
KNOB = re.compile(r"^([A-Z_]+) = (.+?)(  # @param .*)$", re.M)
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# no progress bars in kept outputs; pictures inline, whatever the shell says
QUIET = {"TQDM_DISABLE": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


def knobs(notebook) -> dict[str, str]:
    """The settings of a lesson and their literals."""
    return {name: value for cell in code(notebook) for name, value, _ in KNOB.findall(cell.source)}


def set_knobs(notebook, values: dict) -> None:
    """Write `values` into the settings cell, where the lesson has the knob."""

    def setting(found):
        name, value, comment = found.groups()
        return f"{name} = {values[name]!r}{comment}" if name in values else found[0]

    for cell in code(notebook):
        cell.source = KNOB.sub(setting, cell.source)


def execute(source, target=None, values=None, folder=NOTEBOOKS, env=None, watch=False, kernel="python3"):
    """Run a lesson on a fresh kernel, keep it, even if it fails; `watch` complains of figures without a title."""
    notebook = read(source)
    set_knobs(notebook, values or {})
    arguments = ["--log-level=ERROR"]  # else the kernel warns of TCP on this machine
    if watch:
        arguments.append(f"--IPKernelApp.exec_files={ROOT / 'tools' / 'watch_figures.py'}")
    with tqdm(total=len(notebook.cells), desc=source.stem, unit="cell", leave=False) as bar:
        client = NotebookClient(notebook, kernel_name=kernel, timeout=None, startup_timeout=600)
        client.resources = {"metadata": {"path": str(folder)}}
        client.extra_arguments, client.record_timing = arguments, False
        client.on_cell_executed = lambda cell_index, **_: bar.update(cell_index + 1 - bar.n)
        try:
            client.execute(env={**os.environ, **QUIET, **(env or {})})
        finally:
            notebook.metadata.pop("widgets", None)  # finished bars: GitHub refuses such a notebook
            for cell in code(notebook):
                cell.outputs = [o for o in cell.outputs if "widget-view" not in str(o.get("data"))]
            if target:
                target.parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(notebook, target)
    return notebook


def export(number: str = "") -> None:
    """Write the modules of every lesson, or of that with this number."""
    from nbdev.export import nb_export

    for path in chosen(number):
        nb_export(str(path), str(ROOT / "colorize_utils"))


def chosen(number: str) -> list[Path]:
    """The lessons whose name begins with `number`."""
    found = [path for path in lessons() if path.name.startswith(number)]
    if not found:
        raise SystemExit(f"no lesson {number}: there are {', '.join(p.stem for p in lessons())}")
    return found


def run(pairs: list[str]) -> None:
    """All lessons in order, executed copies, checkpoint and pictures under data/runs/, a table at the end.

    Without knobs every run starts afresh; with knobs it has a folder of its own, and training goes on there.
    """
    values = parse(pairs)
    named = "_".join(f"{key}={Path(str(value)).name}" for key, value in sorted(values.items()))
    folder = ROOT / "data" / "runs" / (f"course_{named}" if values else "course")
    if folder.exists() and not values:
        shutil.rmtree(folder)
    values = {"CHECKPOINT_DIR": folder.relative_to(ROOT).as_posix(), **values}
    print("by the shipped net, without training:", colored_photographs(folder), flush=True)
    results = ""
    for path in lessons():
        start = time.perf_counter()
        results += results_of(execute(path, folder / path.name, values))
        print(f"{path.stem}: about {time.perf_counter() - start:.0f} s", flush=True)
    drawn = (ROOT / values["CHECKPOINT_DIR"]).glob("*/before_after.jpg")
    print(f"\n{results}\nbefore and after: {max(drawn, key=os.path.getmtime)}")
    print(f"executed lessons: {folder}")


def colored_photographs(folder: Path) -> Path:
    """Grey, prediction and truth of the shipped photographs, by the shipped checkpoint, as a picture in `folder`."""
    import matplotlib

    matplotlib.use("agg")
    from colorize_utils.data import photograph
    from colorize_utils.shipped import load_shipped
    from colorize_utils.visualization import compare, predict

    model, _ = load_shipped()
    photos = [photograph(name) for name in ("coffee", "chelsea", "rocket", "astronaut")]
    figure = compare(photos, [predict(model, photo[None], short_side=32)[0] for photo in photos])
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "shipped.jpg", dpi=150)
    return folder / "shipped.jpg"


def results_of(notebook) -> str:
    """The table that lesson 05 prints: a line for the headings, then part, grey, U-Net. "" elsewhere."""
    return "".join(text_of(c) for c in code(notebook) if "results" in c.metadata.get("tags", []))


def refresh(number: str = "") -> None:
    """Export, execute and clean the committed lessons, or one (after 04: with 04's last checkpoint); generate."""
    import torch

    export(number)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    stamp = f"Last run: {datetime.date.today()}, Python {versions['python']}, torch {versions['torch']}."
    kept = ROOT / "data" / "runs" / "refresh"
    if kept.exists() and number in ("", "04"):  # lesson 04 trains afresh
        shutil.rmtree(kept)
    values = {"DATA": "sample", "BASE_WIDTH": 16, "CHECKPOINT_DIR": kept.relative_to(ROOT).as_posix()}
    seconds = json.loads((RESULTS / "lessons.json").read_text())["seconds"]
    for path in chosen(number):
        print(path.name, flush=True)
        original, start = read(path), time.perf_counter()
        notebook = execute(path, kept / path.name, values, watch=True)
        seconds[path.stem] = round(time.perf_counter() - start)
        for cell, before in zip(notebook.cells, original.cells):
            cell.source = before.source  # with its own knobs
        clean(notebook)
        notebook.cells[0].source = re.sub(r"\*Last run.*\*", f"*{stamp}*", notebook.cells[0].source)
        nbformat.write(notebook, path)
    measured = {
        "date": str(datetime.date.today()),
        "machine": {"cores": os.cpu_count(), "gpu": torch.cuda.is_available(), **versions},
        "seconds": {path.stem: seconds[path.stem] for path in lessons() if path.stem in seconds},
    }
    (RESULTS / "lessons.json").write_text(json.dumps(measured, indent=1) + "\n")
    colored_photographs(RESULTS)
    generate.main()


def clean(notebook) -> None:
    """Remove what would break GitHub's preview or make diffs noisy; refuse output that a reader should not see."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("cellView", "tags") if key in cell.metadata}
    for cell in code(notebook):
        joined = []  # what is printed in one go arrives in pieces, never twice the same
        for output in cell.outputs:
            if output.get("name") == "stderr":
                raise SystemExit(f"a cell writes to stderr, mend it:\n{cell.source}\n{output.text}")
            if joined and output.get("name") == joined[-1].get("name") == "stdout":
                joined[-1].text += output.text
            else:
                joined.append(output)
        cell.outputs = joined


def parse(pairs: list[str]) -> dict:
    """NAME=VALUE pairs as knobs; values are Python literals or plain text."""
    known = set().union(*(knobs(read(path)) for path in lessons()))
    values = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in known:
            raise SystemExit(f"no lesson has a knob {name!r}: there are {', '.join(sorted(known))}")
        try:
            values[name] = str(Path(text).absolute()) if Path(text).is_dir() else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for function, what, many in (
        (run, "KNOB=VALUE", "*"),
        (refresh, "NUMBER", "?"),
        (export, "NUMBER", "?"),
    ):
        command = commands.add_parser(function.__name__, help=function.__doc__.splitlines()[0])
        command.add_argument("what", nargs=many, default="", metavar=what)
        command.set_defaults(function=function)
    arguments = parser.parse_args()
    arguments.function(arguments.what)
