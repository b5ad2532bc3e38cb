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
from generate import RESULTS, ROOT, lessons, solutions
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
    """Run a lesson on a fresh kernel, keep it, even if it fails; `watch` complains of its figures."""
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
            client.execute(env={**os.environ, **(env or {}), **QUIET})
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
        if any("#| export" in cell.source for cell in code(read(path))):
            nb_export(str(path), str(ROOT / "colorize_utils"))


def chosen(number: str) -> list[Path]:
    """The lessons whose name begins with `number`."""
    found = [path for path in lessons() if path.name.startswith(number)]
    if not found:
        raise SystemExit(f"no lesson {number}: there are {', '.join(p.stem for p in lessons())}")
    return found


def run(pairs: list[str]) -> None:
    """All lessons in order, executed copies under data/runs/course; pictures and lesson 06's table at the end."""
    values, folder = parse(pairs), ROOT / "data" / "runs" / "course"
    shutil.rmtree(folder, ignore_errors=True)
    for path in lessons():
        start = time.perf_counter()
        other = path.name.startswith("00") and values.get("DATA", "sample") not in ("sample", "cifar100")
        done = execute(path, folder / path.name, {} if other else values)  # one page takes no other set
        print(f"{path.stem}: about {time.perf_counter() - start:.0f} s", flush=True)
        print(
            *(text_of(c) for c in code(done) if "results" in c.metadata.get("tags", [])), sep="", end=""
        )
    print(f"executed lessons: {folder}\nphotographs in colour: {colored_photographs(folder)}")


def colored_photographs(folder: Path) -> Path:
    """Photographs that the shipped net never saw, in grey, in its colours and in their own, as a picture in `folder`."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from colorize_utils.data import photograph
    from colorize_utils.shipped import load_shipped
    from colorize_utils.training import PaintGrey
    from colorize_utils.visualization import predict, show

    model, rows, names = load_shipped()[0], [], ("camera", "rocket", "astronaut")
    for photo in map(photograph, names):
        grey = predict(PaintGrey(), photo[None])[0]
        rows.append([grey, predict(model, photo[None], short_side=32)[0], photo])
    rows[0].pop()  # this one was always black and white
    show(rows, ("grey", "colours by the net", "truth"), names)
    folder.mkdir(parents=True, exist_ok=True)
    plt.savefig(folder / "shipped.jpg")
    return folder / "shipped.jpg"


def refresh(number: str = "") -> None:
    """Export, execute and clean the committed lessons and their solutions, or those of one; generate."""
    import torch

    export(number)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    stamp = f"Last run: {datetime.date.today()}, Python {versions['python']}, torch {versions['torch']}."
    seconds = json.loads((RESULTS / "lessons.json").read_text())["seconds"]
    for path in chosen(number) + [path for path in solutions() if path.name.startswith(number)]:
        print(path.relative_to(NOTEBOOKS), flush=True)
        start = time.perf_counter()
        notebook = execute(path, folder=path.parent, watch=True)
        if path.parent == NOTEBOOKS:
            seconds[path.stem] = round(time.perf_counter() - start)
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
