"""What is printed comes from the files in data/results; and the command that makes the files survives being killed."""

import contextlib
import functools
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import check  # noqa: E402
import generate  # noqa: E402
import lessons  # noqa: E402

FILES = sorted(generate.RESULTS.glob("*.json"))
MEASURED = [path for path in FILES if path.stem not in ("lessons", "bench", "memory")]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = {"README": README, **{path.stem: check.Lesson(path).text for path in generate.lessons()}}


# ---- the files, and what is generated from them ----


def test_the_first_results_are_there():
    names = {path.stem for path in MEASURED}
    assert names == {
        "grey",
        "mean_color",
        "full_net",
        "dogs_vs_cats",
        "race",
        "checkpoint",
        *(f"mse_w16_seed{k}" for k in range(3)),
    }


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_a_result_says_how_it_was_made(path):
    run = json.loads(path.read_text(encoding="utf-8"))
    assert run["run"] == path.stem
    official = {"dogs_vs_cats": ("dogs-vs-cats", 413, 38), "race": ("cifar100", 15_000, 10_000)}
    official = official.get(path.stem, ("cifar100", 50_000, 10_000))
    assert tuple(run["data"][key] for key in ("name", "train", "test")) == official
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", run["date"]) and re.fullmatch(
        r"[0-9a-f]{12}", run["commit"]
    )
    assert run["seconds"] > 0 and {"seed", "settings", "metrics"} <= run.keys()
    assert {"python", "torch", "torchvision", "numpy"} == run["versions"].keys()
    assert {"system", "cores", "device"} == run["machine"].keys()
    if path.stem.startswith("mse"):
        assert run["seed"] == int(path.stem[-1]) and run["settings"]["base_width"] == 16
        assert (
            len(run["curves"]["train"]) == len(run["curves"]["test"]) == run["settings"]["epochs"] == 10
        )
        assert run["curves"]["test"][-1] == pytest.approx(run["metrics"]["mse"], rel=1e-4)
    if path.stem == "full_net":
        assert run["metrics"]["parameters"] == 31_042_434 and run["settings"]["steps"] == 100


def test_the_race_was_fair():
    run = generate.result("race")
    settings = run["settings"]
    assert settings["seeds"] == [0, 1, 2] and settings["base_width"] == 16
    assert sum(settings["epochs"]) == 6 == 3 * sum(settings["trial_epochs"])
    assert set(run["rows"]) == set(generate.RACERS) and set(run["learning_rates"]) <= set(run["rows"])
    for name, row in run["rows"].items():
        assert len(row["scores"]) == (1 if name in ("grey", "mean_color") else 3), name
    for found in run["learning_rates"].values():
        assert len(found["tried"]) == 3
        assert min(found["tried"], key=found["tried"].get) == f"{found['chosen']:g}"
    for row in (
        "weighted_mse",
        "chosen",
    ):  # the competitor is as colourful, as far as validation pictures can tell
        shares = [generate.mean_scores(name)["share"] for name in (row, f"saturated_as_{row}")]
        assert shares[0] == pytest.approx(shares[1], abs=0.03)
    grey = generate.result("grey")["metrics"]
    assert run["rows"]["grey"]["scores"][0]["psnr"] == pytest.approx(grey["psnr"], abs=1e-4)


def test_grey_has_the_figures_that_everyone_can_compute():
    found = generate.result("grey")["metrics"]
    assert [round(found[name], 2) for name in ("psnr", "delta_e", "auc")] == [22.83, 11.4, 88.44]


def test_bench_has_its_ratios():
    bench = generate.result("bench")
    assert {name: entry["goal"] for name, entry in bench.items()} == {
        "training_loop": 0.95, "lab_conversion": 3, "delivery": 5, "preparation": 0.8, "streaming": 3,
        "streaming_compiled": 6, "streaming_loop": 0.97}  # fmt: skip
    for entry in bench.values():
        assert entry.keys() == {"ratio", "goal"} and entry["ratio"] >= entry["goal"]


def test_memory_keeps_its_limits():
    memory = generate.result("memory")
    assert list(memory["sizes"]) == ["1000", "25000"] and max(memory["growth_mb"].values()) <= 50
    assert all(size["train_mb"]["peak"] <= 1200 for size in memory["sizes"].values())
    assert memory["settings"] == {"image_size": 128, "base_width": 16, "batch_size": 16, "steps": 100}


def test_readme_and_lessons_are_as_generated():
    for name, text in TEXTS.items():
        assert generate.filled(text) == text, f"{name}: run make generate"


def test_every_table_stands_somewhere_and_the_main_one_in_readme_and_lesson_06():
    for name, table in generate.TABLES.items():
        holders = [
            where
            for where, text in TEXTS.items()
            if f"<!-- {name} -->\n{table()}\n<!-- /{name} -->" in text
        ]
        assert holders, f"no text has <!-- {name} -->"
        wanted = {
            "cifar100": "06_measuring_color",
            "race": "07_rare_colors",
            "verdict": "07_rare_colors",
        }
        if name in wanted:
            assert holders == ["README", wanted[name]]


@pytest.mark.parametrize("name", generate.PLOTS)
def test_the_plots_are_drawn_from_the_files(name):
    with Image.open(generate.RESULTS / name) as plot:
        assert plot.text["Description"] == generate.digest_of(name), "run: make generate"
        assert plot.width > 500
    assert f"](data/results/{name})" in README


@pytest.mark.parametrize("number, text", [("06", "mean of the seeds"), ("08", "settings of")])
def test_a_lesson_shows_the_figures_of_the_files(number, text):
    path = next(path for path in generate.lessons() if path.stem.startswith(number))
    cells = [c for c in lessons.read(path).cells if "measured" in c.metadata.get("tags", [])]
    now, names = io.StringIO(), {"ROOT": generate.ROOT}
    exec("import torch\nimport matplotlib.pyplot as plt", names)
    with contextlib.redirect_stdout(now):  # the cells again, without a kernel
        for cell in cells:
            exec(cell.source, names)
    assert text in now.getvalue()
    assert "".join(map(lessons.text_of, cells)) == now.getvalue(), "run: make lessons"


SHOWN = {
    "grey": [("metrics", name) for name in ("mse", "psnr", "ssim", "delta_e", "auc", "balanced_auc", "colorfulness", "share")]
    + [("other_conventions", name) for name in ("without_color", "psnr_of_the_mean", "psnr_of_all_floored_at_1e-10")],
    "mean_color": [("metrics", name) for name in ("psnr", "ssim", "delta_e", "auc", "balanced_auc", "colorfulness", "share")],
    "mse_w16_seed1": [("metrics", name) for name in ("psnr", "ssim", "delta_e", "auc", "balanced_auc", "colorfulness", "share")]
    + [("curves", "train", 3), ("curves", "test", 9)],
    "full_net": [("metrics", "parameters"), ("metrics", "seconds_per_step"), ("metrics", "peak_gigabytes", "process"),
                 ("width_16", "seconds_per_step"), ("width_16", "peak_gigabytes", "process"), ("settings", "steps")],
    "bench": [(name, "ratio") for name in generate.result("bench")],
    "memory": [("sizes", "25000", "prepare_mb", "peak"), ("sizes", "1000", "train_mb", "peak"), ("growth_mb", "train"),
               ("growth_mb", "prepare"), ("float64_lab_gb",), ("settings", "steps")],
    "dogs_vs_cats": [("metrics", painter, key) for painter in ("grey", "mean_color", "unet") for key in ("psnr", "delta_e", "auc", "balanced_auc", "share")]
    + [("data", "train"), ("settings", "best_epoch")],
    "race": [("rows", row, "scores", 0, key) for row in ("grey", "mse", "chosen", "weighted_mse") for key in ("psnr", "ssim", "delta_e", "auc", "balanced_auc", "share")]
    + [("front", 5, "validation", key) for key in ("psnr", "share", "balanced_auc", "delta_e")] + [("settings", "pictures")],
    "checkpoint": [("metrics", key) for key in ("psnr", "ssim", "delta_e", "auc", "balanced_auc", "share")] + [("data", "train")],
    "lessons": [("seconds", path.stem) for path in generate.lessons()] + [("errors", "test", "U-Net")],
}  # fmt: skip


def generated() -> list[str]:
    return [table() for table in generate.TABLES.values()] + [*map(generate.digest_of, generate.PLOTS)]


@pytest.mark.parametrize(
    "name, keys", [(name, keys) for name, all_keys in SHOWN.items() for keys in all_keys]
)
def test_another_number_in_a_file_is_found(name, keys, tmp_path, monkeypatch):
    before = generated()
    for file in FILES:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    *path, last = keys
    holder = functools.reduce(lambda inner, key: inner[key], path, content)
    holder[last] += 10 if name == "memory" else 1
    (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert before != generated()


# ---- make results, on few pictures and a tiny net ----

SMALL = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tools")!r}]
import torch, results
from pathlib import Path
from colorize_utils.data import Images, sample_images
torch.set_num_threads(1)
small = sample_images(16)
results.load = lambda folder: Images(small.train[:256], small.test[:20], small.test[:20])
results.SETTINGS |= {{"base_width": 2, "epochs": 3}}
results.STEPS = 1
results.RESULTS, results.WORK = Path(sys.argv[1]) / "results", Path(sys.argv[1]) / "work"
fit = results.fit


def fit_and_wait(*args, **kwargs):
    history = fit(*args, **kwargs)
    if (kwargs["seed"], kwargs["epochs"]) == (1, 2):
        print("kill me", flush=True)
        time.sleep(60)
    return history


if "wait" in sys.argv:
    results.fit = fit_and_wait
if __name__ == "__main__":
    results.main("anywhere")
"""


def start(folder, *how):
    folder.mkdir(exist_ok=True)
    (folder / "small.py").write_text(SMALL)
    command = [sys.executable, "-u", str(folder / "small.py"), str(folder), *how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def without_times(folder):
    """What two runs must have in common."""
    runs = {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}
    for run in runs.values():
        for name in ("seconds_per_epoch", "seconds", "date", "width_16"):
            run.pop(name, None)
        for name in ("seconds_per_step", "peak_gigabytes"):
            run["metrics"].pop(name, None)
    return runs


def test_killed_results_go_on_and_end_as_if_nothing_had_happened(tmp_path):
    whole = start(tmp_path / "whole")
    output = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0, output
    assert re.search(r"grey, mean_color, full_net, mse_w16_seed0.*: about \d+ minutes in all", output)
    assert output.index("minutes in all") < output.index("epoch 1")

    killed = start(tmp_path / "killed", "wait")
    try:
        assert "kill me\n" in iter(killed.stdout.readline, ""), "it ended before it could be killed"
    finally:
        killed.kill()
        killed.communicate(timeout=60)
    finished = {path.stem for path in (tmp_path / "killed" / "results").glob("*.json")}
    assert finished == {"grey", "mean_color", "full_net", "mse_w16_seed0"}

    again = start(tmp_path / "killed")
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    assert "measured already: grey, mean_color, full_net, mse_w16_seed0" in output
    resumed = output.split("\nmse_w16_seed1\n")[1].split("\nmse_w16_seed2\n")[0]
    assert "going on after epoch 2\nepoch 3:" in resumed and "epoch 1:" not in resumed
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")
    for path in (tmp_path / "killed" / "results").glob("*.json"):
        numbers = [x for x in json.loads(path.read_text())["metrics"].values() if isinstance(x, float)]
        assert numbers and all(map(math.isfinite, numbers)), path.name


def test_results_say_what_is_missing(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "results.py"), str(tmp_path / "nowhere")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "name the one that holds cifar-100-python" in done.stderr
