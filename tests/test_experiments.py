"""The experiments, on few pictures and a tiny net: killed, begun again, kept; and what the race chooses."""

import json
import subprocess
import sys
import time

import pytest
import race
import runner
import ship
import torch

from colorize_utils.measuring import measure
from colorize_utils.metrics import color_frequency

SMALL = f"""
import sys
sys.path[:] = {sys.path}
import race, results, runner, torch

pictures = torch.randint(256, (70, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
tiny = runner.Images(*pictures.split([50, 10, 10]))
race.cifar100 = results.cifar100 = lambda folder: tiny
race.LOSSES = {{name: race.LOSSES[name] for name in ("mse", "weighted_mse", "rebalanced")}}
race.EXTRAS = {{"sampled": race.EXTRAS["sampled"]}}
race.SETTINGS |= {{"base_width": 2, "epochs": [1, 1], "seeds": [0, 1], "learning_rates": [1e-3, 1e-2]}}
results.SETTINGS |= {{"base_width": 2, "epochs": 4}}
results.FULL |= {{"base_width": 2, "steps": 1}}
runner.RESULTS, runner.RUNS = (runner.Path(sys.argv[1]) / x for x in ("results", "runs"))
if __name__ == "__main__":
    sys.modules[sys.argv[2]].main("anywhere")
"""


def start(folder, which: str):
    folder.mkdir(exist_ok=True)
    (folder / "small.py").write_text(SMALL)
    command = [sys.executable, "-u", str(folder / "small.py"), str(folder), which]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process) -> str:
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    return output


def found(folder) -> dict:
    """What two runs must have in common."""
    runs = {path.stem: json.loads(path.read_text()) for path in folder.glob("results/*.json")}
    of_a_machine = ("seconds", "date", "commit", "seconds_per_epoch", "trained_at", "width_16")
    runs.get("full_net", {}).pop("metrics", None)
    return {name: {k: x for k, x in run.items() if k not in of_a_machine} for name, run in runs.items()}


SCORES = "runs/*/score*.json"
CASES = [("race", SCORES, SCORES), ("results", "runs/*seed1*/last.pt", "results/grey.json")]


@pytest.mark.parametrize("which, kill, damage", CASES)  # killed when this is there; this is damaged
def test_a_killed_experiment_goes_on_and_makes_nothing_twice(which, kill, damage, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished(start(whole, which))
    curves = [run["curves"]["train"] for run in found(whole).values() if "curves" in run]
    assert list(map(len, curves)) == [4, 4, 4] * (which == "results")
    process = start(killed, which)
    while not list(killed.glob(kill)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)  # ends when the workers have ended: they hold the pipe, too
    stored, damaged = found(killed), next(killed.glob(damage))
    answers = [*killed.glob("runs/*/**/last.pt"), *killed.glob(SCORES)]
    before = {path: path.stat().st_mtime_ns for path in answers}
    assert len(before) >= 2 and stored != found(whole)
    damaged.write_text("{")  # is made anew
    output = finished(start(killed, which))
    assert found(killed) == found(whole)
    again = [path for path, at in before.items() if path != damaged and path.stat().st_mtime_ns != at]
    assert len(again) <= (which == "results"), f"made twice: {again}"  # one net was in the middle
    assert all(f"{name}: measured already" in output for name in stored if name != damaged.stem)


def test_a_result_is_stored_once_for_the_same_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    numbers = iter(range(9))

    def run(**settings) -> int:
        return runner.result("x", {"settings": settings}, lambda: {"n": next(numbers)})["n"]

    assert [run(a=1), run(a=1), run(a=2), run(a=2, b=1), run(a=2, b=1)] == [0, 0, 1, 2, 2]
    assert runner.run_folder("x", {"a": 1}) != runner.run_folder("x", {"a": 2})  # two never mix


def test_what_is_committed_is_not_trained_again(monkeypatch, capsys):
    for module in (race, ship):
        monkeypatch.setattr(module, "cifar100", lambda folder: pytest.fail("it begins to train"))
        module.main("anywhere")
    assert capsys.readouterr().out.count("measured already") == 3


def test_the_shipped_checkpoints_are_what_is_measured(tiny, tmp_path, monkeypatch):
    for module in (ship, sys.modules["colorize_utils.shipped"]):
        monkeypatch.setattr(module, "place", lambda name: tmp_path / f"{name}.pt")
    monkeypatch.setattr(runner, "RUNS", tmp_path)
    monkeypatch.setattr(ship, "cifar100", lambda folder: tiny)
    monkeypatch.setattr(ship, "HELD_OUT", 20)
    for settings in (ship.SETTINGS, ship.MSE):
        monkeypatch.setitem(settings, "base_width", 2)
    run = ship.ship("anywhere", {"temperature": 0.5, "power": 0.45, "uniform": 0.1})
    model, info = ship.load_shipped()
    frequency = color_frequency(torch.cat([tiny.train, tiny.validation]))
    assert info["metrics"] == run["metrics"] == runner.rounded(measure(model, tiny.test, frequency))
    assert (
        run["sha256"] == ship.digest("rare_colors_w16")
        and run["data"]["train"] == 70
        and len(run["curve"]) == 5
    )
    trained = ship.checkpoint.read(next(tmp_path.glob("ship_[0-9a-f]*/last.pt")))["model"]["last.bias"]
    weights = info["loss"]["weights"][ship.gamut_cells()]
    torch.testing.assert_close(model[0].last.bias.detach(), trained + weights.log())
    run = ship.ship_mse("anywhere")
    model, info = ship.load_shipped(name="mse_w16")
    assert info["metrics"] == run["metrics"] == runner.rounded(measure(model, tiny.test, frequency))
    trained = ship.checkpoint.read(next(tmp_path.glob("ship_mse_*/last.pt")))["model"]["last.bias"]
    assert torch.equal(model.last.bias, trained) and len(run["curve"]) == 10


def test_half_of_the_pictures_are_mirrored_with_their_colours(monkeypatch):
    L, ab = (torch.rand(64, channels, 4, 4) for channels in (1, 2))
    monkeypatch.setattr(ship, "fast_step", lambda model, *batch: batch[:2])
    both = zip(torch.cat([L, ab], 1), torch.cat(ship.mirroring_step(None, L, ab, None, None), 1))
    found = [(old.equal(new), old.flip(2).equal(new)) for old, new in both]
    assert set(found) == {(True, False), (False, True)} and 16 < found.count((True, False)) < 48


def test_the_rates_follow_the_schedule_and_adam_begins_afresh(tiny):
    seen = []

    def step(model, L, ab, loss, optimizer):
        steps = [int(state["step"]) for state in optimizer.state.values()][:1]
        seen.append((optimizer.param_groups[0]["lr"], steps))
        return race.fast_step(model, L, ab, loss, optimizer)

    settings = {"base_width": 2, "batch_size": 35}
    race.fit_fast(tiny, torch.nn.MSELoss(), settings, 0, [0.1, 0.1, 0.01], None, step)
    assert seen == [(0.1, []), (0.1, [1]), (0.1, [2]), (0.1, [3]), (0.01, []), (0.01, [1])]


def test_the_chosen_setting_is_colourful_and_cheap_and_then_the_best():
    what = "net", "psnr", "share", "balanced_auc"
    rows = [("mse", 23.0, 0.45, 63), ("mse", 22.2, 0.80, 70)]  # the competitor can't be chosen
    rows += [("a", 22.5, 0.60, 69), ("b", 21.0, 0.95, 69)]  # too grey, too expensive
    rows += [("c", 22.1, 0.78, 65), ("d", 22.2, 0.80, 66)]
    front = [{"net": row[0], "validation": dict(zip(what, row))} for row in rows]
    front = [{**entry, "decoding": {"saturation": 1 + k}} for k, entry in enumerate(front)]
    assert race.choose_setting(front)["net"] == "d"
    assert race.choose_setting([front[0], *front[2:4]])["net"] == "a"  # misses by less


def test_every_loss_of_the_race_is_the_one_it_is_called(tiny):
    frequency, every = color_frequency(tiny.train), race.LOSSES | race.EXTRAS
    output, ab = torch.rand(2, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4
    loss = {name: make(frequency) for name, make in every.items()}
    value = {name: loss[name](output, ab).item() for name in loss if not hasattr(loss[name], "count")}
    assert value["l1"] == pytest.approx((output - ab).abs().mean().item())
    assert value["mse"] == value["sampled"] == pytest.approx(((output - ab) ** 2).mean().item())
    assert value["blend_0.5"] == pytest.approx((value["mse"] + value["weighted_mse"]) / 2, rel=1e-4)
    assert len({round(x, 7) for x in value.values()}) == len(value) - 1
    assert loss["rebalanced"].weights.max() > loss["cross_entropy"].weights.max() == 1


def test_the_competitor_is_as_colourful_as_wanted(tiny, monkeypatch):
    model = torch.nn.Conv2d(1, 2, 1, bias=False)  # some colour that depends on the lightness
    model.weight.data = torch.tensor([0.3, -0.45]).view(2, 1, 1, 1)
    monkeypatch.setattr(race.here, "images", tiny, raising=False)
    monkeypatch.setattr(race, "painter", lambda name: model)
    model.weight.data *= race.matching_saturation("any", 0.6)
    share = measure(model, tiny.validation, color_frequency(tiny.train))["share"]
    assert share == pytest.approx(0.6, abs=0.01) and model.weight.max() > 0.3


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SystemExit, match="nowhere: name the one for cifar-100-python"):
        runner.cifar100(tmp_path / "nowhere")
