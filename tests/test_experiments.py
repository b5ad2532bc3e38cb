"""The race of the losses, on few pictures and a tiny net: killed, begun again, and what it chooses."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import race  # noqa: E402

from colorize_utils.metrics import color_frequency, measure  # noqa: E402

SMALL = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tools")!r}]
import race
from pathlib import Path
from colorize_utils.data import Images, sample_images
from colorize_utils.metrics import color_frequency


def load(folder, settings):
    small = sample_images(16)
    return Images(small.train[::25], small.validation[::30], small.test[::30]), color_frequency(small.train)


race.load = load
race.LOSSES, race.EXTRAS = ("mse", "weighted_mse", "rebalanced"), ("sampled",)
race.SETTINGS |= {{"base_width": 2, "pictures": 60, "test": 10, "epochs": [1, 1], "seeds": [0, 1]}}
race.SETTINGS |= {{"learning_rates": [1e-3, 1e-2]}}
race.ROOT = Path(sys.argv[1])
race.RESULTS = race.ROOT / "results"
if __name__ == "__main__":
    race.main("anywhere", small=False)
"""


def start(folder):
    folder.mkdir(exist_ok=True)
    (folder / "small.py").write_text(SMALL)
    command = [sys.executable, "-u", str(folder / "small.py"), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process, folder) -> dict:
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    return json.loads((folder / "results" / "race.json").read_text())


def nets(folder) -> list[str]:
    return sorted(path.stem for path in (folder / "data" / "runs" / "race").glob("*.pt"))


def pids_of(folder) -> list[str]:
    found = subprocess.run(["pgrep", "-f", str(folder / "small.py")], capture_output=True, text=True)
    return found.stdout.split()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A race that was killed in the middle and begun again: its folder, its result, what was there at the kill."""
    folder = tmp_path_factory.mktemp("killed")
    process, before = start(folder), []
    try:
        while len(before) < 7:  # the six trials and a net
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
            before = nets(folder)
    finally:
        process.kill()
        process.communicate(timeout=60)
    workers_end = time.monotonic() + 60
    while pids_of(folder):
        assert time.monotonic() < workers_end, "the workers outlive the race"
        time.sleep(0.1)
    assert not (folder / "results").exists()
    times = {path: path.stat().st_mtime_ns for path in (folder / "data" / "runs" / "race").glob("*.pt")}
    result = finished(start(folder), folder)
    for path, was in times.items():
        assert path.stat().st_mtime_ns == was, f"{path.name} was trained twice"
    return folder, result


def test_a_killed_race_goes_on_and_ends_as_if_nothing_had_happened(killed, tmp_path):
    folder, result = killed
    whole = finished(start(tmp_path), tmp_path)
    assert nets(folder) == nets(tmp_path)
    own = {"seconds": 0, "date": "", "commit": ""}
    assert result | own == whole | own


def test_a_race_has_every_row_with_every_seed(killed):
    _, result = killed
    rows = ["grey", "mean_color", "mse", "weighted_mse", "rebalanced", "chosen"]
    assert list(result["rows"]) == [*rows, "saturated_as_weighted_mse", "saturated_as_chosen"]
    for name, row in result["rows"].items():
        assert len(row["scores"]) == (1 if name in ("grey", "mean_color") else 2)
    assert result["metrics"] == {name: row["scores"] for name, row in result["rows"].items()}
    assert all(rate["chosen"] in (1e-3, 1e-2) for rate in result["learning_rates"].values())
    for rows in result["histograms"].values():
        counts = torch.tensor([[int(x) for x in row.split()] for row in rows])
        assert counts.shape == (23, 23) and counts.sum() == 10 * 16 * 16
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", result["commit"])


def test_other_settings_do_not_mix_with_a_race_that_is_there(killed):
    folder, _ = killed
    (folder / "small.py").write_text(SMALL.replace('"base_width": 2', '"base_width": 3'))
    command = [sys.executable, str(folder / "small.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "delete it to race anew" in done.stderr


# ---- what it chooses, and how it makes the competitor ----


def entry(net, psnr, share, balanced, **decoding):
    return {
        "net": net,
        "decoding": decoding,
        "validation": {"psnr": psnr, "share": share, "balanced_auc": balanced},
    }


def test_the_chosen_setting_is_colourful_and_cheap_and_then_the_best():
    front = [
        entry("mse", 23.0, 0.45, 63, saturation=1),
        entry("mse", 22.2, 0.80, 70, saturation=1.7),  # the competitor can't be chosen
        entry("a", 22.5, 0.60, 69),  # too grey
        entry("b", 21.0, 0.95, 69),  # too expensive
        entry("c", 22.1, 0.78, 65),
        entry("d", 22.2, 0.80, 66),
    ]
    assert race.choose_setting(front)["net"] == "d"
    assert race.choose_setting([front[0], *front[2:4]])["net"] == "a"  # misses by less


def test_every_loss_of_the_race_is_the_one_it_is_called(tiny):
    frequency = color_frequency(tiny.train)
    output, ab = torch.rand(2, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4
    values = {
        name: race.make_loss(name, frequency)(output, ab).item()
        for name in (*race.LOSSES, *race.EXTRAS)
        if name not in race.CLASSES
    }
    assert values["l1"] == pytest.approx((output - ab).abs().mean().item())
    assert values["mse"] == values["sampled"] == pytest.approx(((output - ab) ** 2).mean().item())
    assert values["blend_0.5"] == pytest.approx((values["mse"] + values["weighted_mse"]) / 2, rel=1e-4)
    plain = [values[name] for name in ("mse", "sampled")]
    others = [value for name, value in values.items() if name not in ("mse", "sampled")]
    assert len({round(value, 7) for value in others + plain[:1]}) == len(others) + 1
    assert (
        race.make_loss("rebalanced", frequency).weights.max()
        > race.make_loss("cross_entropy", frequency).weights.max()
    )


def test_the_competitor_is_as_colourful_as_wanted(tiny, monkeypatch):
    class HalfTruth(torch.nn.Module):
        def forward(self, L):  # some colour that depends on the lightness
            return torch.cat([0.3 * L, -0.45 * L], dim=1)

    monkeypatch.setattr(race.Here, "images", tiny, raising=False)
    monkeypatch.setattr(race, "painter", lambda name: HalfTruth())
    frequency = color_frequency(tiny.train)
    factor = race.matching_saturation("any", 0.6)
    found = measure(torch.nn.Sequential(HalfTruth(), race.Times(factor)), tiny.validation, frequency)
    assert found["share"] == pytest.approx(0.6, abs=0.01)
