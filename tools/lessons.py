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

# no progress bars in kept outputs; pictures inline, whatever the shell says
QUIET = {"TQDM_DISABLE": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}


def read(path: Path):
    return nbformat.read(path, as_version=4)


def knobs(notebook) -> dict[str, str]:
    """The settings of a lesson and their literals."""
    return {
        name: value
        for cell in notebook.cells
        if cell.cell_type == "code"
        for name, value, _ in KNOB.findall(cell.source)
    }


def set_knobs(notebook, values: dict) -> None:
    """Write `values` into the settings cell, where the lesson has the knob."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = KNOB.sub(
                lambda m: f"{m[1]} = {values[m[1]]!r}{m[3]}" if m[1] in values else m[0],
                cell.source,
            )


def execute(
    source: Path,
    target: Path | None = None,
    values: dict | None = None,
    folder: Path = NOTEBOOKS,
    env: dict | None = None,
    watch: bool = False,
    kernel: str = "python3",
):
    """Run a lesson on a fresh kernel in `folder`, keep it at `target` (also if it fails), return the notebook.

    `watch` makes a figure without a title complain on stderr.
    """
    notebook = read(source)
    set_knobs(notebook, values or {})
    arguments = ["--log-level=ERROR"]  # else the kernel warns of TCP on this machine
    if watch:
        arguments.append(f"--IPKernelApp.exec_files={ROOT / 'tools' / 'watch_figures.py'}")
    with tqdm(total=len(notebook.cells), desc=source.stem, unit="cell", leave=False) as bar:
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name=kernel,
            record_timing=False,
            extra_arguments=arguments,
            resources={"metadata": {"path": str(folder)}},
            on_cell_executed=lambda cell, cell_index, execute_reply: bar.update(cell_index + 1 - bar.n),
        )
        try:
            client.execute(env={**os.environ, **QUIET, **(env or {})})
        finally:
            without_progress_bars(notebook)
            if target:
                target.parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(notebook, target)
    return notebook


def without_progress_bars(notebook) -> None:
    """Remove what finished bars leave in a notebook: GitHub refuses to show one with such metadata."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [
                o for o in cell.outputs if "widget-view" not in str(o.get("data", {}).keys())
            ]


def text_of(cell) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


def export() -> None:
    """Write every lesson's module."""
    from nbdev.export import nb_export

    for path in lessons():
        nb_export(str(path), str(ROOT / "colorize_utils"))


def run(values: dict) -> None:
    """All lessons in order, executed copies, checkpoint and picture under data/runs/, a table at the end.

    Without knobs every run starts afresh; with knobs it has a folder of its own, and training goes on there.
    """
    named = "_".join(f"{key}={Path(str(value)).name}" for key, value in sorted(values.items()))
    folder = ROOT / "data" / "runs" / (f"course_{named}" if values else "course")
    if not values and folder.exists():
        shutil.rmtree(folder)
    values = {"CHECKPOINT_DIR": folder.relative_to(ROOT).as_posix(), **values}
    print(
        f"photographs that the shipped checkpoint never saw, coloured: {colored_photographs(folder)}",
        flush=True,
    )
    results = ""
    for path in lessons():
        start = time.perf_counter()
        notebook = execute(path, folder / path.name, values)
        results = results_of(notebook) or results
        print(f"{path.stem}: about {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{results}\nbefore and after: {picture_in(ROOT / values['CHECKPOINT_DIR'])}")
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
    return "".join(
        text_of(cell) for cell in notebook.cells if "results" in cell.metadata.get("tags", [])
    )


def picture_in(checkpoints: Path) -> Path:
    """Lesson 05's newest before-and-after picture."""
    return max(checkpoints.glob("*/before_after.jpg"), key=lambda path: path.stat().st_mtime)


def refresh() -> None:
    """Export, execute and clean the committed lessons; write their times and errors, and what is generated."""
    import torch

    export()
    stamp = f"Last run: {datetime.date.today()}, Python {platform.python_version()}, torch {torch.__version__}."
    checkpoints = ROOT / "data" / "runs" / "refresh"
    if checkpoints.exists():
        shutil.rmtree(checkpoints)
    values = {
        "DATA": "sample",
        "BASE_WIDTH": 16,
        "CHECKPOINT_DIR": checkpoints.relative_to(ROOT).as_posix(),
    }
    seconds, results = {}, ""
    for path in lessons():
        print(path.name, flush=True)
        original = read(path)
        start = time.perf_counter()
        notebook = execute(path, checkpoints / path.name, values, watch=True)
        results = results_of(notebook) or results
        seconds[path.stem] = round(time.perf_counter() - start)
        for cell, before in zip(notebook.cells, original.cells):
            cell.source = before.source  # with its own knobs
        clean(notebook)
        notebook.cells[0].source = re.sub(r"\*Last run.*\*", f"*{stamp}*", notebook.cells[0].source)
        nbformat.write(notebook, path)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    machine = {"cores": os.cpu_count(), "gpu": torch.cuda.is_available(), **versions}
    rows = (line.split() for line in results.splitlines()[1:])
    errors = {part: {"grey": float(grey), "U-Net": float(unet)} for part, grey, unet in rows}
    colored_photographs(RESULTS)
    measured = {
        "date": str(datetime.date.today()),
        "machine": machine,
        "seconds": seconds,
        "errors": errors,
    }
    (RESULTS / "lessons.json").write_text(json.dumps(measured, indent=1) + "\n")
    generate.main()


def joined(outputs: list) -> list:
    """What is printed in one go arrives in pieces, never twice the same: put them together."""
    result = []
    for output in outputs:
        if result and output.output_type == "stream" and result[-1].get("name") == output.name:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def clean(notebook) -> None:
    """Remove what would break GitHub's preview or make diffs noisy; refuse output that a reader should not see."""
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise SystemExit(
                    f"a cell writes to stderr, mend it first:\n{cell.source}\n{output.text}"
                )


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
    for function in (run, refresh, export):
        command = commands.add_parser(function.__name__, help=function.__doc__.splitlines()[0])
        if function is run:
            command.add_argument(
                "knobs", nargs="*", metavar="KNOB=VALUE", help="such as DATA=cifar100 EPOCHS=10"
            )
    arguments = parser.parse_args()
    run(parse(arguments.knobs)) if arguments.command == "run" else globals()[arguments.command]()
