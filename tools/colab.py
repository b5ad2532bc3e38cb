"""Run every lesson as Colab would: exactly its versions, an empty folder, nothing of the course installed.

For each twin in colab.json: build it with uv, copy a lesson into an empty folder, run all cells, and all once more in
the same kernel; the bootstrap cell clones the last commit of this repository. No package may change, no output may
hold a warning, none may ask for a restart.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from generate import ROOT
from lessons import code, execute, read
from nbclient.exceptions import CellExecutionError

TWINS = json.loads((Path(__file__).with_name("colab.json")).read_text(encoding="utf-8"))["twins"]
PLACE = ROOT / ".twins"
GOOGLE = "def mount(*_, **__):\n    raise NotImplementedError('a stand-in for Colab has no Drive')\n"


def uv(*arguments) -> str:
    """What uv prints and reports; its own message if it fails."""
    program = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"uv {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return done.stdout + done.stderr


def interpreter(version: str) -> str:
    """A Python of this version: one of pyenv's, on the PATH, or what uv can fetch."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    here = next(map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"))), version)
    try:
        uv("python", "find", here)
    except SystemExit:
        uv("python", "install", here)
    return here


def build(name: str) -> Path:
    """The twin's Python; made anew if colab.json has changed."""
    twin, folder = TWINS[name], PLACE / name
    python, made = folder / "bin" / "python", folder / "made.json"
    if not made.is_file() or json.loads(made.read_text()) != twin:
        wanted = [
            f"{package}=={version}".removesuffix("==") for package, version in twin["packages"].items()
        ]
        uv("venv", "--quiet", "--clear", "--python", interpreter(twin["python"]), folder)
        uv("pip", "install", "--quiet", "--python", python, *wanted)
        made.write_text(json.dumps(twin))
    return python


def kernel(name: str, python: Path, folder: Path) -> dict:
    """An environment in which jupyter finds the twin's kernel under `name`, and Python a stand-in for google.colab."""
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    files = {
        f"jupyter/kernels/{name}/kernel.json": json.dumps(
            {"argv": argv, "display_name": name, "language": "python"}
        ),
        "stand-in/google/colab/__init__.py": "",
        "stand-in/google/colab/drive.py": GOOGLE,
        "stand-in/sitecustomize.py": "import google.colab\n",  # as in Colab's kernels
    }
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    return {"PYTHONPATH": str(folder / "stand-in"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def twice(path: Path, target: Path) -> None:
    """A copy of a lesson that runs all its cells, and all once more."""
    notebook = read(path)
    again = [nbformat.from_dict({**cell, "id": f"again-{i}"}) for i, cell in enumerate(notebook.cells)]
    notebook.cells += again
    nbformat.write(notebook, target)


def complaints(notebook) -> list[str]:
    """Errors, warnings and calls for a restart in the outputs of an executed lesson."""
    found = []
    for output in (output for cell in code(notebook) for output in cell.outputs):
        said = f"{output.get('text', '')}{output.get('evalue', '')}"
        bad = output.output_type == "error" or output.get("name") == "stderr"
        if bad or re.search("warning|restart", said, re.I):
            found.append(said)
    return found


def run(name: str, numbers: list[str]) -> bool:
    """The lessons in one twin; says what is wrong and returns whether nothing is."""
    print(
        f"{name}: Python {TWINS[name]['python']}, torch {TWINS[name]['packages']['torch']}", flush=True
    )
    python = build(name)
    before = uv("pip", "freeze", "--python", python)
    plan = uv("pip", "install", "--dry-run", "--python", python, "-r", ROOT / "requirements.txt")
    bad = [
        f"requirements.txt would replace {line}" for line in plan.splitlines() if line.startswith(" - ")
    ]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        repository = folder / "repository"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(repository)], check=True)
        env = kernel(f"colab-{name}", python, folder) | {"COLORIZE_REPO": repository.as_uri()}
        for path in sorted((repository / "notebooks").glob("[0-9]*.ipynb")):
            if numbers and path.name[:2] not in numbers:
                continue
            empty, start = folder / path.stem, time.perf_counter()
            empty.mkdir()
            twice(path, empty / path.name)
            kept = ROOT / "data" / "runs" / "colab" / name / path.name
            with contextlib.suppress(CellExecutionError):  # its output is among the complaints
                execute(empty / path.name, kept, folder=empty, env=env, kernel=f"colab-{name}")
            bad += [f"{path.stem}: {complaint}" for complaint in complaints(read(kept))]
            print(f"  {path.stem}: about {time.perf_counter() - start:.0f} s", flush=True)
    if uv("pip", "freeze", "--python", python) != before:
        bad.append("a lesson changed the installed packages")
    print(*bad, f"{name}: {'FAILED' if bad else 'every lesson ran, twice'}", sep="\n", flush=True)
    return not bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "what", nargs="*", help=f"twins of {', '.join(TWINS)}, and lessons, as 04 (default: all)"
    )
    what = parser.parse_args().what
    twins = [name for name in what if name in TWINS] or list(TWINS)
    results = [run(name, [number for number in what if number not in TWINS]) for name in twins]
    sys.exit(not all(results))
