import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from colorize_utils.lab import rgb_to_lab
from colorize_utils.training import PaintGrey
from colorize_utils.unet import UNet
from colorize_utils.visualization import ab_density, compare, predict, predict_small


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_predict_sees_lightness_alone_and_keeps_it(tiny):
    model = UNet(base_width=2).train()
    with torch.no_grad():
        model.last.weight *= 0.1  # soft colours, which stay in the gamut
        model.last.bias *= 0.1
    before = {key: value.clone() for key, value in model.state_dict().items()}
    coloured = predict(model, tiny.test)
    assert coloured.shape == tiny.test.shape and coloured.dtype == torch.float32
    middle = (rgb_to_lab(tiny.test)[:, :1] - 50).abs() < 30
    kept = (rgb_to_lab(coloured)[:, :1] - rgb_to_lab(tiny.test)[:, :1]).abs()
    assert kept[middle].max() < 0.5
    grey = predict(PaintGrey(), tiny.test)
    assert (predict(model, grey) - coloured).abs().max() < 1e-3
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_predict_does_not_depend_on_the_batch(tiny):
    model = UNet(base_width=2).train()
    together = predict(model, tiny.test)
    assert torch.allclose(together, predict(model, tiny.test, batch_size=3), atol=1e-5)


def test_a_photograph_is_predicted_small_and_keeps_its_size_and_lightness():
    seen = []

    class Warm(torch.nn.Module):
        def forward(self, L):
            seen.append(tuple(L.shape))
            return torch.full_like(L, 0.1).expand(-1, 2, -1, -1)

    photo = (torch.rand(1, 3, 90, 120, generator=torch.Generator().manual_seed(0)) * 100 + 80).byte()
    colored = predict(Warm(), photo, short_side=30)
    assert seen == [(1, 1, 30, 40)] and colored.shape == photo.shape
    lab = rgb_to_lab(colored)
    assert (lab[:, 0] - rgb_to_lab(photo)[:, 0]).abs().max() < 0.1
    assert (lab[:, 1:] - 11).abs().max() < 0.1


def test_predicting_at_the_pictures_own_size_is_predicting():
    model = UNet(base_width=2).eval()
    L = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(predict_small(model, L, 32), model(L), atol=1e-5)


def test_a_thin_photograph_and_no_size_at_all():
    model = UNet(base_width=2).eval()
    with torch.no_grad():
        assert predict_small(model, torch.rand(1, 1, 3, 200), 2).shape == (1, 2, 3, 200)
        with pytest.raises(ValueError, match="at least 1 pixel"):
            predict_small(model, torch.rand(1, 1, 3, 200), 0)


def test_paint_grey_is_grey(tiny):
    grey = predict(PaintGrey(), tiny.test)
    assert (grey.amax(dim=1) - grey.amin(dim=1)).max() < 1e-3


def test_compare_draws_grey_prediction_truth_in_this_order(tiny):
    pictures = [tiny.test[0], tiny.test[1][:, :9]]  # of two sizes
    predictions = [torch.zeros(3, *p.shape[1:]) for p in pictures]
    figure = compare(pictures, predictions, ["first", "second"])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["grey", "first", "truth", "grey", "second", "truth"]
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    assert np.allclose(shown[0], predict(PaintGrey(), pictures[0][None])[0].permute(1, 2, 0).numpy())
    assert np.array_equal(shown[1], predictions[0].permute(1, 2, 0).numpy())
    assert np.array_equal(shown[5], pictures[1].permute(1, 2, 0).numpy())
    assert len(compare(tiny.test[:5], torch.zeros(5, 3, 16, 16), per_row=2).axes) == 15


@pytest.mark.parametrize("pictures, predictions", [(0, 0), (2, 1)])
def test_compare_refuses_lists_that_do_not_match(tiny, pictures, predictions):
    with pytest.raises(ValueError, match="as many predictions"):
        compare(list(tiny.test[:pictures]), list(torch.zeros(predictions, 3, 16, 16)))


def test_ab_density_counts_pixels_where_they_are():
    ab = torch.zeros(1, 2, 1, 4)
    ab[0, :, 0, 3] = torch.tensor([55.0, -30.0]) / 110
    density = ab_density(ab, bins=22)  # cells of 10
    assert density[11, 11].item() == pytest.approx(np.log10(3 / 4))
    assert density[8, 16].item() == pytest.approx(np.log10(1 / 4))  # rows along b
    assert (density == -7).sum() == 22 * 22 - 2
