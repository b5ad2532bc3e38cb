import hashlib
import json
from pathlib import Path

import pytest
import torch

from colorize_utils.data import load_images, photograph
from colorize_utils.files import checkpoint
from colorize_utils.lab import rgb_to_lab
from colorize_utils.losses import gamut_cells
from colorize_utils.measuring import measure
from colorize_utils.metrics import color_frequency, colorfulness
from colorize_utils.shipped import load_shipped, place
from colorize_utils.visualization import predict

RESULTS = Path(__file__).parents[1] / "data" / "results"
NETS = {"rare_colors_w16": ("checkpoint", 261), "mse_w16": ("checkpoint_mse", 2)}  # result, channels


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{NETS[name][0]}.json").read_text())


@pytest.mark.parametrize("name", NETS)
def test_it_is_the_small_file_that_was_measured_with_its_settings_and_metrics(name):
    content, measured = place(name).read_bytes(), result(name)
    assert hashlib.sha256(content).hexdigest() == measured["sha256"], "run experiments/ship.py"
    assert len(content) == measured["bytes"] <= 4_500_000
    content = checkpoint.read(place(name))
    assert content["architecture"] == {"in_channels": 1, "out_channels": NETS[name][1], "base_width": 16}
    assert all(x.dtype == torch.float16 for x in content["model"].values() if x.dim() > 1)
    info = content["info"]
    assert info["metrics"] == measured["metrics"] and info["settings"] == measured["settings"]
    if name == "rare_colors_w16":
        weights = info["loss"]["weights"]
        assert weights.shape == (23, 23) and weights[gamut_cells()].min() > 0


def test_another_name_is_answered_with_those_that_exist():
    with pytest.raises(
        ValueError, match="no net is shipped as 'mse': there are rare_colors_w16, mse_w16"
    ):
        load_shipped(name="mse")


def test_the_squared_error_paints_sepia_and_the_other_does_not():
    strength = {}
    for name in NETS:
        model = load_shipped(name=name)[0]
        photos = [photograph(photo)[None] for photo in ("astronaut", "coffee", "chelsea")]
        strength[name] = sum(
            colorfulness(predict(model, photo, short_side=32)).item() for photo in photos
        )
    truth = sum(colorfulness(photo).item() for photo in photos)
    assert strength["mse_w16"] < 0.5 * truth and strength["mse_w16"] < 0.6 * strength["rare_colors_w16"]


def test_it_colours_photographs_that_it_never_saw():
    model, b = load_shipped()[0], {}
    assert not model.training
    for name in ("coffee", "chelsea", "rocket", "astronaut"):
        photo = photograph(name)[None]
        colored = predict(model, photo, short_side=32)
        assert 15 < colorfulness(colored).item() < 90
        lab = rgb_to_lab(colored)
        assert (lab[:, 0] - rgb_to_lab(photo)[:, 0]).abs().mean() < 2  # the screen clips some
        b[name] = lab[0, 2]
    assert b["rocket"][:150].mean() < -5 < 5 < b["chelsea"].mean()  # blue sky, warm fur


@pytest.mark.parametrize("name", NETS)
def test_it_scores_what_its_file_says(name, real_cifar100):
    images = load_images("cifar100", real_cifar100, download=False)
    frequency = color_frequency(torch.cat([images.train, images.validation]))
    model, info = load_shipped(name=name)
    found = measure(model, images.test, frequency)
    for metric, value in info["metrics"].items():
        assert found[metric] == pytest.approx(value, rel=1e-3), metric
