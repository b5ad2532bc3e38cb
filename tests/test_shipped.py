"""The checkpoint that comes with the course: whole, small, and as good as its file says."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from colorize_utils.data import load_images, photograph
from colorize_utils.files import checkpoint
from colorize_utils.lab import rgb_to_lab
from colorize_utils.losses import gamut_cells
from colorize_utils.metrics import color_frequency, colorfulness, measure
from colorize_utils.shipped import PATH, load_shipped
from colorize_utils.visualization import predict

RESULT = json.loads((Path(__file__).parents[1] / "data" / "results" / "checkpoint.json").read_text())


def test_it_is_the_file_that_was_measured_and_small():
    content = PATH.read_bytes()
    assert hashlib.sha256(content).hexdigest() == RESULT["sha256"], "run experiments/ship.py"
    assert len(content) == RESULT["bytes"] <= 4_500_000


def test_it_holds_its_settings_metrics_and_weights():
    content = checkpoint.read(PATH)
    assert content["architecture"] == {"in_channels": 1, "out_channels": 261, "base_width": 16}
    assert all(x.dtype == torch.float16 for x in content["model"].values() if x.dim() > 1)
    info = content["info"]
    assert info["metrics"] == RESULT["metrics"] and info["settings"] == RESULT["settings"]
    weights = info["loss"]["weights"]
    assert weights.shape == (23, 23) and weights[gamut_cells()].min() > 0


def test_it_colours_photographs_that_it_never_saw():
    model, _ = load_shipped()
    assert not model.training
    for name in ("coffee", "chelsea", "rocket", "astronaut"):
        photo = photograph(name)[None]
        colored = predict(model, photo, short_side=32)
        assert colored.shape == photo.shape
        assert 15 < colorfulness(colored).item() < 90
        lightness = rgb_to_lab(colored)[:, 0] - rgb_to_lab(photo)[:, 0]
        assert lightness.abs().mean() < 2  # but for what the screen clips


def test_it_knows_the_sky_and_fur():
    """Blue above the rocket, warm on the cat: b below and above 0."""
    model, _ = load_shipped()
    sky, fur = (predict(model, photograph(name)[None], short_side=32) for name in ("rocket", "chelsea"))
    assert rgb_to_lab(sky)[0, 2, :150].mean() < -5 < 5 < rgb_to_lab(fur)[0, 2].mean()


def test_it_scores_what_its_file_says(real_cifar100):
    images = load_images("cifar100", real_cifar100, download=False)
    frequency = color_frequency(torch.cat([images.train, images.validation]))
    model, info = load_shipped()
    found = measure(model, images.test, frequency)
    for name, value in info["metrics"].items():
        assert found[name] == pytest.approx(value, rel=1e-3), name
