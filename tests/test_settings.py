"""A lesson's settings, wrong: one clear sentence from the function that gets them, and nothing is made."""

import os

import check as rules
import lessons as tool
import pytest

from colorize_utils.data import load_images
from colorize_utils.training import fit
from colorize_utils.unet import UNet

# how lessons use each knob, and what a wrong value must bring up
USE = {
    "DATA": (lambda x, images: load_images(x, "data"), [5, "", "no-such-set", "~/nothing", "$HOME/x"]),
    "IMAGE_SIZE": (lambda x, images: load_images("sample", image_size=x), [0, -3, "32", 32.5, 101]),
    "SEED": (lambda x, images: load_images("sample", seed=x), ["x", 2**70, 1.5]),
    "BASE_WIDTH": (lambda x, images: UNet(base_width=x), [0, -1, "16", 2.5]),
    "EPOCHS": (lambda x, images: fit(UNet(base_width=2), images, epochs=x), [-2, 0, "3", 1.5]),
    "BATCH_SIZE": (
        lambda x, images: fit(UNet(base_width=2), images, epochs=1, batch_size=x),
        [0, -8, "a", 2.5],
    ),
    "LEARNING_RATE": (
        lambda x, images: fit(UNet(base_width=2), images, epochs=1, learning_rate=x),
        [-1, "fast"],
    ),
}


@pytest.mark.parametrize("name", USE)
def test_a_wrong_value_is_named_in_one_sentence(name, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use, wrong = USE[name]
    for value in wrong:
        with pytest.raises(
            (AssertionError, ValueError, TypeError, RuntimeError, FileNotFoundError)
        ) as error:
            use(value, tiny)
        said = str(error.value)
        assert 15 < len(said) < 300 and said.count("\n") < 2, (value, said)
        named = str(value), type(value).__name__, "Overflow"  # the value itself, or what it is instead
        assert any(word in said for word in named), (value, said)
    assert os.listdir(tmp_path) == []


def test_every_knob_of_a_lesson_is_tried_above():
    assert set(USE) == rules.KNOBS
    for path in tool.lessons():
        assert tool.knobs(tool.read(path)).keys() <= set(USE), path.name
