"""Memory that does not grow with the number of photographs: preparing them, and training on them at 128 pixels.

`python benchmarks/memory.py FOLDER` takes the JPEGs in FOLDER as often as it needs them, each time with other bytes at
its end, prepares 1,000 and 25,000 of them and trains 100 steps on either, each in a process of its own. It watches
the process's anonymous memory (what is neither a file nor shared), beside what float64 Lab would need. Linux only.
"""

import json
import multiprocessing
import os
import re
import shutil
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F

from colorize_utils.data import load_images
from colorize_utils.lab import to_network
from colorize_utils.training import batches, plain_step
from colorize_utils.unet import UNet

ROOT = Path(__file__).resolve().parents[1]
WORK, RESULT = ROOT / "data" / "runs" / "memory", ROOT / "data" / "results" / "memory.json"
COUNTS, SIZE, WIDTH, BATCH, STEPS = (1_000, 25_000), 128, 16, 16, 100


def anonymous() -> int:
    """Megabytes of anonymous memory of this process, now."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024


def watched(function, folder) -> dict:
    """Megabytes before `function(folder)`, and at the most while it runs, looked at a hundred times a second."""
    before, most, ended = anonymous(), [0], threading.Event()

    def watch():
        while not ended.wait(0.01):
            most[0] = max(most[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    function(folder)
    ended.set()
    thread.join()
    return {"before": before, "peak": max(most[0], anonymous())}


def prepare(folder):
    return load_images(folder, WORK, image_size=SIZE).train


def train(folder) -> None:
    pictures, model = prepare(folder), UNet(base_width=WIDTH).train()
    optimizer = torch.optim.Adam(model.parameters())
    rows = batches(len(pictures), BATCH, shuffle=True)  # from all over the store
    for index in islice(cycle(rows), STEPS):
        plain_step(model, *to_network(pictures[index]), F.mse_loss, optimizer)


def copies(source: Path, count: int) -> Path:
    """A folder of `count` JPEGs: those of `source` again and again, no two with the same bytes."""
    folder, originals = WORK / f"photographs_{count}", sorted(source.rglob("*.jpg"))
    if not originals:
        raise SystemExit(f"no .jpg below {source}: name a folder of photographs")
    for i, original in zip(range(count), cycle(originals)):
        path = folder / f"{i // 1000}" / f"{original.stem}.{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(original.read_bytes() + i.to_bytes(4, "big"))
    return folder


def main(source: Path) -> None:
    sizes = {}
    for count in COUNTS:
        folder = copies(source, count)
        found = {"jpeg_gb": round(sum(p.stat().st_size for p in folder.rglob("*.jpg")) / 1e9, 2)}
        for function in (prepare, train):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                answer = alone.submit(watched, function, folder).result()
            print(f"{count:,} pictures, {function.__name__}: {answer}", flush=True)
            found[f"{function.__name__}_mb"] = answer
        sizes[str(count)] = found
    few, many = (sizes[str(count)] for count in COUNTS)
    growth = {x: many[f"{x}_mb"]["peak"] - few[f"{x}_mb"]["peak"] for x in ("prepare", "train")}
    settings = {"image_size": SIZE, "base_width": WIDTH, "batch_size": BATCH, "steps": STEPS}
    result = {"settings": settings, "sizes": sizes, "growth_mb": growth}
    result["float64_lab_gb"] = round(COUNTS[-1] * 3 * SIZE**2 * 8 / 1e9, 1)
    result["machine"] = {"cores": os.cpu_count()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"growth from {COUNTS[0]:,} to {COUNTS[1]:,} pictures: {growth} MB")
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
