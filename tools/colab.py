"""Run every lesson as Colab would: exactly its versions, an empty folder, nothing of the course installed.

For each twin in colab.json: build it with uv, copy a lesson into an empty folder, run all cells, and all once more in
the same kernel; the bootstrap cell clones the last commit of this repository. No package may change, no output may
hold a warning, none may ask for a restart.
"""

import argparse
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
from lessons import execute, read, text_of
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
    """A Python of this version: on the PATH, one of pyenv's, or what uv can fetch."""
    folders = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(
        f"versions/{version}.*/bin/python"
    )
    here = next((str(path) for path in sorted(folders)), version)
    try:
        uv("python", "find", here)
    except SystemExit:
        try:
            uv("python", "install", here)
        except SystemExit as error:
            raise SystemExit(
                f"Python {version} is missing: install it, with uv, pyenv or your system, and run again.\n{error}"
            ) from None
    return here


def build(name: str) -> Path:
    """The twin's Python; made anew if colab.json has changed."""
    twin, folder = TWINS[name], PLACE / name
    python, made = folder / "bin" / "python", folder / "made.json"
    if made.is_file() and json.loads(made.read_text()) == twin:
        return python
    wanted = [
        f"{package}=={version}" if version else package for package, version in twin["packages"].items()
    ]
    uv("venv", "--quiet", "--clear", "--python", interpreter(twin["python"]), folder)
    uv("pip", "install", "--quiet", "--python", python, *wanted)
    made.write_text(json.dumps(twin))
    return python


def kernel(name: str, python: Path, folder: Path) -> dict:
    """An environment in which jupyter finds the twin's kernel under `name`, and Python a stand-in for google.colab."""
    spec = folder / "jupyter" / "kernels" / name
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": name, "language": "python"})
    )
    stand_in = folder / "stand-in" / "google" / "colab"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "drive.py").write_text(GOOGLE)
    (folder / "stand-in" / "sitecustomize.py").write_text(
        "import google.colab\n"
    )  # as in Colab's kernels
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
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = str(output.get("text", "")) + str(output.get("evalue", ""))
            if (
                output.output_type == "error"
                or output.get("name") == "stderr"
                or re.search("warning|restart", text, re.I)
            ):
                found.append(text)
    if "Change runtime type" not in "".join(map(text_of, notebook.cells)):
        found.append("nothing points to the GPU")
    return found


def replaced_by_requirements(python: Path) -> list[str]:
    """Packages of the twin that installing requirements.txt would replace."""
    plan = uv("pip", "install", "--dry-run", "--python", python, "-r", ROOT / "requirements.txt")
    return [line for line in plan.splitlines() if line.startswith(" - ")]


def run(name: str) -> bool:
    """Every lesson in one twin; says what is wrong and returns whether nothing is."""
    python = build(name)
    before = uv("pip", "freeze", "--python", python)
    bad = replaced_by_requirements(python)
    print(*(f"  requirements.txt would replace {line}" for line in bad), sep="\n", end="")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        repository = folder / "repository"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(repository)], check=True)
        env = kernel(f"colab-{name}", python, folder) | {"COLORIZE_REPO": repository.as_uri()}
        for path in sorted((repository / "notebooks").glob("*.ipynb")):
            empty = folder / path.stem
            empty.mkdir()
            twice(path, empty / path.name)
            start = time.perf_counter()
            kept = ROOT / "data" / "runs" / "colab" / name / path.name
            try:
                execute(empty / path.name, kept, folder=empty, env=env, kernel=f"colab-{name}")
            except CellExecutionError:
                pass  # its output is among the complaints
            found = complaints(read(kept))
            bad += found
            print(
                f"  {path.stem}: about {time.perf_counter() - start:.0f} s",
                *found,
                sep="\n    ",
                flush=True,
            )
    if uv("pip", "freeze", "--python", python) != before:
        bad.append("a lesson changed the installed packages")
        print(" ", bad[-1])
    return not bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "twins", nargs="*", default=list(TWINS), help=f"of {', '.join(TWINS)} (default: all)"
    )
    names = parser.parse_args().twins
    results = {}
    for name in names:
        versions = {
            p: v for p, v in TWINS[name]["packages"].items() if p in ("torch", "torchvision", "numpy")
        }
        print(f"{name}: Python {TWINS[name]['python']}, {versions}", flush=True)
        results[name] = run(name)
    print(
        *(
            f"{name}: {'every lesson ran, twice' if good else 'FAILED'}"
            for name, good in results.items()
        ),
        sep="\n",
    )
    sys.exit(not all(results.values()))
