import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from colorize_utils.lab import rgb_to_lab
from colorize_utils.metrics import PaintColor
from colorize_utils.unet import UNet
from colorize_utils.visualization import ab_density, compare, predict, predict_small, show


@pytest.fixture
def drawn():
    """The figure that was drawn last; plt.show() leaves it where nobody looks."""
    plt.close("all")
    yield plt.gcf
    plt.close("all")


def pictures_in(figure) -> list[np.ndarray]:
    return [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]


def test_predict_sees_lightness_alone_and_keeps_it(tiny):
    model = UNet(base_width=2).train()
    with torch.no_grad():
        model.last.weight *= 0.1  # soft colours, which stay in the gamut
        model.last.bias *= 0.1
    colored = predict(model, tiny.test)
    assert colored.shape == tiny.test.shape and colored.dtype == torch.float32
    lightness, kept = (rgb_to_lab(rgb)[:, :1] for rgb in (tiny.test, colored))
    assert (kept - lightness)[(lightness - 50).abs() < 30].abs().max() < 0.5
    grey = predict(PaintColor(), tiny.test)
    assert (grey.amax(dim=1) - grey.amin(dim=1)).max() < 1e-3
    assert (predict(model, grey) - colored).abs().max() < 1e-3
    alone = torch.cat([predict(model, picture[None]) for picture in tiny.test])
    assert torch.allclose(alone, colored, atol=1e-5)  # whatever else is in the batch


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_net_as_it_was(tiny, training):
    model = UNet(base_width=2).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not predict(model, tiny.test).requires_grad
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


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


def test_show_draws_rows_as_they_are_and_names_rows_and_columns_once(drawn):
    colors, small = torch.rand(3, 20, 30), torch.randint(256, (3, 4, 4), dtype=torch.uint8)
    grey, wide = torch.rand(20, 30), torch.rand(3, 10, 40)
    assert show([[colors, grey, small], [wide]], ("one", "two", "three"), ("above", "below")) is None
    figure = drawn()
    assert figure.dpi == 144 and figure.get_figwidth() == 9.2
    assert [axis.get_title() for axis in figure.axes] == ["one", "two", "three", "", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["above", "", "", "below", "", ""]
    wanted = [picture.expand(3, *picture.shape[-2:]) for picture in (colors, grey, small, wide)]
    for picture, shown in zip(wanted, pictures_in(figure), strict=True):
        assert np.array_equal(shown, picture.permute(1, 2, 0).numpy())


def test_six_pictures_a_row_are_200_pixels_wide_and_not_distorted(drawn):
    show([list(torch.rand(6, 3, 8, 8)), list(torch.rand(6, 3, 4, 8))], labels=("square", "wide"))
    drawn().canvas.draw()
    boxes = [axis.get_window_extent() for axis in drawn().axes]
    assert min(box.width for box in boxes) >= 200
    assert all(box.height == pytest.approx(box.width, rel=0.01) for box in boxes[:6])
    assert all(box.height == pytest.approx(box.width / 2, rel=0.01) for box in boxes[6:])


def test_compare_draws_grey_prediction_truth_in_this_order(tiny, drawn):
    pictures = [tiny.test[0], tiny.test[1][:, :9]]  # of two sizes
    predictions = [torch.zeros(3, *picture.shape[1:]) for picture in pictures]
    assert compare(pictures, predictions, ["first", "second"]) is None
    axes = drawn().axes
    assert [axis.get_title() for axis in axes] == ["grey", "prediction", "truth", "", "", ""]
    assert [axis.get_ylabel() for axis in axes] == ["first", "", "", "second", "", ""]
    shown = pictures_in(drawn())
    grey, truth = (rgb_to_lab(torch.from_numpy(shown[k]).permute(2, 0, 1)[None])[0] for k in (0, 2))
    assert torch.allclose(grey[0], truth[0], atol=0.1) and grey[1:].abs().max() < 0.1
    for k, wanted in ((1, predictions[0]), (5, pictures[1])):
        assert np.array_equal(shown[k], wanted.permute(1, 2, 0).numpy())
    compare(tiny.test[:5], torch.zeros(5, 3, 16, 16))
    assert len(drawn().axes) == 15
    with pytest.raises(AssertionError, match="each picture needs one prediction"):
        compare(pictures, predictions[:1])


def test_ab_density_counts_pixels_where_they_are():
    ab = torch.zeros(1, 2, 1, 4)
    ab[0, :, 0, 3] = torch.tensor([55.0, -30.0]) / 110
    density = ab_density(ab)  # cells of 2
    assert density[55, 55].item() == pytest.approx(np.log10(3 / 4))
    assert density[40, 82].item() == pytest.approx(np.log10(1 / 4))  # rows along b
    assert (density == -7).sum() == 110 * 110 - 2
