"""What the experiments share: results, kept with where they came from and never made twice, and workers.

A result is a JSON file in data/results; what is trained for it lies in data/runs, where a killed experiment goes on.
"""

import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from tqdm import tqdm

from colorize_utils.data import Images, load_images
from colorize_utils.files.disk import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT / "data" / "results", ROOT / "data" / "runs"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPAWN = multiprocessing.get_context("spawn")
here = SimpleNamespace()  # what a worker has


def command_line(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", default=ROOT / "data", help="for cifar-100-python: data")
    return parser


def cifar100(folder) -> Images:
    if not Path(folder).is_dir():
        raise SystemExit(f"no folder {folder}: name the one for cifar-100-python")
    return load_images("cifar100", folder)


def write(path: Path, content) -> None:
    write_whole(path, f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())


def read(path: Path):
    """What `write` wrote; None where there is nothing, or nothing that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def run_folder(name: str, settings: dict) -> Path:
    """Where a run is trained: another folder for other settings, so that two never mix."""
    return RUNS / f"{name}_{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"


def rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in scores.items()}


def commit() -> str:
    """The repository's commit, with "-dirty" behind it if files other than results differ from it."""
    asked = "rev-parse --short=12 HEAD", "status --porcelain --untracked-files=no -- . :!data/results"
    how = {"cwd": ROOT, "capture_output": True, "text": True}
    head, changed = (subprocess.run(["git", *line.split()], **how).stdout.strip() for line in asked)
    return (head or "unknown") + ("-dirty" if changed else "")


def agrees(stored, wanted) -> bool:
    """Whether a stored value is the wanted one; a dictionary may hold more, and None is content with anything."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        return all(agrees(stored.get(key), value) for key, value in wanted.items())
    return wanted is None or stored == wanted


def result(name: str, made_with: dict, make, folder: Path | None = None) -> dict:
    """NAME.json as it is stored, if it was made with the same; else what `make()` finds, kept with its provenance.

    `made_with` (data, seed, settings) tells one result from another; what `make` says about those replaces it.
    """
    path = (folder or RESULTS) / f"{name}.json"
    stored = read(path)
    if agrees(stored, made_with):
        print(f"{name}: measured already, on {stored['date']}; delete {path} to measure it anew")
        return stored
    print(f"\n{name}", flush=True)
    start, at, packages = time.perf_counter(), commit(), ("torch", "torchvision", "numpy")
    run = {"run": name, **made_with, **make()}
    run["seconds"] = round(time.perf_counter() - start, 1)
    run |= {"date": str(datetime.date.today()), "commit": at}
    run["machine"] = {"system": platform.system(), "cores": os.cpu_count(), "device": DEVICE}
    run["versions"] = {"python": platform.python_version()} | {x: version(x) for x in packages}
    write(path, run)
    return run


def begin(threads: int = 0, things: dict | None = None) -> None:
    """In a new process: leave nothing behind when the process that began this one is killed."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    if threads:
        torch.set_num_threads(threads)
        vars(here).update(things)
        sys.stdout = open(os.devnull, "w")  # one bar, in the main process, will do


def alone(function, *arguments):
    """What the function returns in a fresh process."""
    with ProcessPoolExecutor(1, SPAWN, begin) as pool:
        return pool.submit(function, *arguments).result()


def kept(path: Path | None, function, job: tuple):
    """What the function returned for this job the last time, or returns now."""
    answer = read(path) if path else None
    if answer is None:
        answer = function(*job)
        if path:
            write(path, answer)
    return answer


class Workers:
    """Processes that do jobs side by side, a thread each on a CPU; in each of them, `here` has the `things`."""

    def __init__(self, folder: Path, **things):
        self.folder, cores = folder, os.cpu_count() or 1
        count = 1 if DEVICE == "cuda" else min(cores, 8)
        os.environ["TQDM_DISABLE"] = "1"  # in the workers, which read it when they start
        first = max(1, cores // count), things | {"folder": folder}
        self.pool = ProcessPoolExecutor(count, SPAWN, begin, first)

    def __call__(self, function, jobs, keep: bool = True) -> list:
        """`function(*job)` of each job; kept as JSON files, unless the function itself keeps what it does."""
        labels = [re.sub(r"[^\w.]+", "-", f"{function.__name__} {job}").strip("-") for job in jobs]
        paths = [self.folder / f"{label}.json" if keep else None for label in labels]
        answers = self.pool.map(kept, paths, [function] * len(paths), jobs)
        return list(tqdm(answers, function.__name__, total=len(paths)))  # an error cancels the rest
