import pytest
import skimage.color
import torch

from colorize_utils.lab import from_network, lab_to_rgb, rgb_to_lab, to_network

WHITE = torch.ones(1, 3, 2, 2)


def reference(function, tensor):
    """A scikit-image conversion in float64, on (B, 3, H, W)."""
    array = tensor.double().permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(function(array)).permute(0, 3, 1, 2)


def all_colours(step=5):
    steps = torch.tensor([*range(0, 255, step), 255], dtype=torch.uint8)
    return torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, len(steps), -1)


def test_rgb_to_lab_equals_scikit_image_and_srgb_has_the_known_range():
    rgb = all_colours()
    ours = rgb_to_lab(rgb.to(memory_format=torch.channels_last))
    assert ours.dtype == torch.float32
    assert (ours - reference(skimage.color.rgb2lab, rgb / 255)).abs().max() < 1e-3
    assert torch.equal(rgb_to_lab(rgb / 255), ours)
    assert (rgb_to_lab((rgb / 255).half()) - ours).abs().max() < 0.5
    assert ours.amin(dim=(0, 2, 3)).tolist() == pytest.approx([0, -86.19, -107.86], abs=0.02)
    assert ours.amax(dim=(0, 2, 3)).tolist() == pytest.approx([100, 98.24, 94.48], abs=0.02)


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_lab_to_rgb_equals_scikit_image_inside_and_outside_the_gamut():
    L, steps = torch.tensor([0.0, 3, 8, 20, 50, 80, 100]), torch.linspace(-128, 127, 52)
    lab = torch.cartesian_prod(L, steps, steps).T.reshape(1, 3, 7, -1)
    assert (lab_to_rgb(lab) - reference(skimage.color.lab2rgb, lab)).abs().max() < 1e-3


def test_every_uint8_colour_survives_the_round_trip():
    rgb = all_colours(3)
    assert torch.equal((lab_to_rgb(rgb_to_lab(rgb)) * 255).round().byte(), rgb)


def test_gradients_are_finite_everywhere_and_right():
    colors = [[0.0, 0, 0], [100, 0, 0], [50, 200, -200], [0, -128, 127], [8, 0, 0], [100, 120, 120]]
    lab = torch.tensor([*colors, [55, 20, -15]]).T.reshape(1, 3, 1, 7).requires_grad_()
    rgb = lab_to_rgb(lab)
    rgb.sum().backward()
    assert lab.grad.isfinite().all()
    step = torch.tensor([0, 0.1, 0]).reshape(1, 3, 1, 1)
    numeric = (lab_to_rgb(lab + step) - lab_to_rgb(lab - step)).sum(dim=1) / 0.2
    assert lab.grad[0, 1, 0, 6].item() == pytest.approx(numeric[0, 0, 6].item(), rel=1e-2)
    rgb = rgb.detach().requires_grad_()
    rgb_to_lab(rgb).sum().backward()
    assert rgb.grad.isfinite().all()


def test_normalisation_is_the_courses_and_mixed_precision_around_it_changes_nothing():
    rgb = all_colours(51)
    L, ab = to_network(rgb)
    lab = rgb_to_lab(rgb)
    assert torch.equal(L, lab[:, :1] / 50 - 1) and torch.equal(ab, lab[:, 1:] / 110)
    back = from_network(L, ab)
    assert (back - rgb / 255).abs().max() < 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rgb_to_lab(rgb), lab) and torch.equal(from_network(L, ab), back)
    half = from_network(L.half(), ab.half())
    assert half.dtype == torch.float32 and (half - back).abs().max() < 0.02


def test_an_empty_batch_and_what_rounding_leaves_pass():
    assert rgb_to_lab(WHITE[:0]).shape == (0, 3, 2, 2)
    assert rgb_to_lab(WHITE + 1e-5).isfinite().all()


def test_nonsense_is_refused_with_the_next_step():
    scaled = [WHITE * factor for factor in (255, 1.001, -0.01, torch.nan)]
    for rgb in (*scaled, WHITE.int(), WHITE.bool()):
        with pytest.raises(AssertionError, match="uint8 in 0..255 or float in 0..1: divide by 255"):
            rgb_to_lab(rgb)
