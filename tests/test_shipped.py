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
from colorize_utils.shipped import PATH, load_shipped
from colorize_utils.visualization import predict

ROOT = Path(__file__).parents[1]
RESULT = json.loads((ROOT / "data" / "results" / "checkpoint.json").read_text())


def test_it_is_the_small_file_that_was_measured_with_its_settings_metrics_and_weights():
    content = PATH.read_bytes()
    assert hashlib.sha256(content).hexdigest() == RESULT["sha256"], "run experiments/ship.py"
    assert len(content) == RESULT["bytes"] <= 4_500_000
    content = checkpoint.read(PATH)
    assert content["architecture"] == {"in_channels": 1, "out_channels": 261, "base_width": 16}
    assert all(x.dtype == torch.float16 for x in content["model"].values() if x.dim() > 1)
    info = content["info"]
    assert info["metrics"] == RESULT["metrics"] and info["settings"] == RESULT["settings"]
    weights = info["loss"]["weights"]
    assert weights.shape == (23, 23) and weights[gamut_cells()].min() > 0


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


def test_it_scores_what_its_file_says(real_cifar100):
    images = load_images("cifar100", real_cifar100, download=False)
    frequency = color_frequency(torch.cat([images.train, images.validation]))
    model, info = load_shipped()
    found = measure(model, images.test, frequency)
    for name, value in info["metrics"].items():
        assert found[name] == pytest.approx(value, rel=1e-3), name
