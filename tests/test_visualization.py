import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from colorize_utils.lab import rgb_to_lab
from colorize_utils.metrics import PaintColor
from colorize_utils.unet import UNet
from colorize_utils.visualization import ab_density, compare, predict, predict_small


def test_predict_sees_lightness_alone_and_keeps_it(tiny):
    model = UNet(base_width=2).train()
    with torch.no_grad():
        model.last.weight *= 0.1  # soft colours, which stay in the gamut
        model.last.bias *= 0.1
    coloured = predict(model, tiny.test)
    assert coloured.shape == tiny.test.shape and coloured.dtype == torch.float32
    lightness, kept = (rgb_to_lab(rgb)[:, :1] for rgb in (tiny.test, coloured))
    assert (kept - lightness)[(lightness - 50).abs() < 30].abs().max() < 0.5
    grey = predict(PaintColor(), tiny.test)
    assert (grey.amax(dim=1) - grey.amin(dim=1)).max() < 1e-3
    assert (predict(model, grey) - coloured).abs().max() < 1e-3
    alone = torch.cat([predict(model, picture[None]) for picture in tiny.test])
    assert torch.allclose(alone, coloured, atol=1e-5)  # whatever else is in the batch


def test_a_photograph_is_predicted_small_and_keeps_its_size_and_lightness():
    photo = torch.randint(80, 180, (1, 3, 90, 120), dtype=torch.uint8)
    model, seen = PaintColor((0.1, 0.1)), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    colored = predict(model, photo, short_side=30)
    assert seen == [(1, 1, 30, 40)] and colored.shape == photo.shape
    lab = rgb_to_lab(colored)
    assert (lab[:, 0] - rgb_to_lab(photo)[:, 0]).abs().max() < 0.1
    assert (lab[:, 1:] - 11).abs().max() < 0.1
    assert predict_small(model, torch.rand(1, 1, 3, 200), 2).shape == (1, 2, 3, 200)  # a thin one
    L, unet = torch.rand(2, 1, 32, 48), UNet(base_width=2).eval()
    assert torch.allclose(predict_small(unet, L, 32), unet(L), atol=1e-5)  # its own size


def test_compare_draws_grey_prediction_truth_in_this_order(tiny):
    pictures = [tiny.test[0], tiny.test[1][:, :9]]  # of two sizes
    predictions = [torch.zeros(3, *p.shape[1:]) for p in pictures]
    figure = compare(pictures, predictions, ["first", "second"])
    titles = " ".join(axis.get_title() for axis in figure.axes)
    assert titles == "grey first truth grey second truth"
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    grey, truth = (rgb_to_lab(torch.from_numpy(shown[k]).permute(2, 0, 1)[None])[0] for k in (0, 2))
    assert torch.allclose(grey[0], truth[0], atol=0.1) and grey[1:].abs().max() < 0.1
    for k, wanted in ((1, predictions[0]), (5, pictures[1])):
        assert np.array_equal(shown[k], wanted.permute(1, 2, 0).numpy())
    assert len(compare(tiny.test[:5], torch.zeros(5, 3, 16, 16), per_row=2).axes) == 15
    with pytest.raises(AssertionError, match="one prediction and caption"):
        compare(pictures, predictions[:1])
    plt.close("all")


def test_ab_density_counts_pixels_where_they_are():
    ab = torch.zeros(1, 2, 1, 4)
    ab[0, :, 0, 3] = torch.tensor([55.0, -30.0]) / 110
    density = ab_density(ab)  # cells of 2
    assert density[55, 55].item() == pytest.approx(np.log10(3 / 4))
    assert density[40, 82].item() == pytest.approx(np.log10(1 / 4))  # rows along b
    assert (density == -7).sum() == 110 * 110 - 2
