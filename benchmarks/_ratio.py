"""What the benchmarks share: measuring two ways of doing the same in turns, and keeping the ratio."""

import json
import statistics
import time
from pathlib import Path

from colorize_utils.files.disk import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "bench.json"


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(name: str, goal: float, ours, theirs, rounds: int = 5) -> None:
    """Time `theirs` / `ours`, in turns, so that a busy machine slows both; print and keep the median ratio."""
    ours(), theirs()  # warm up
    ratios = []
    for i in range(rounds):
        their_time, our_time = seconds(theirs), seconds(ours)
        ratios.append(their_time / our_time)
        print(f"round {i + 1} of {rounds}: about {our_time:.2g} s beside {their_time:.2g} s", flush=True)
    ratio = round(statistics.median(ratios), 3)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    kept[name] = {"ratio": ratio, "goal": goal}
    write_whole(RESULTS, f"{json.dumps(kept, indent=1, sort_keys=True)}\n".encode())
    print(f"{name}: {'reaches' if ratio >= goal else 'MISSES'} its goal of {goal:g}\n{ratio}")
