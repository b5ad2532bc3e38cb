import numpy as np
import pytest
import skimage.color
import torch

from colorize_utils.lab import from_network, lab_to_rgb, rgb_to_lab, to_network


def reference(function, tensor):
    """A scikit-image conversion in float64, on (B, 3, H, W)."""
    array = tensor.double().permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(function(array)).permute(0, 3, 1, 2)


def all_colours(step=5):
    steps = torch.tensor([*range(0, 255, step), 255], dtype=torch.uint8)
    return torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, len(steps), -1)


def test_rgb_to_lab_equals_scikit_image():
    rgb = all_colours()
    ours = rgb_to_lab(rgb)
    assert ours.dtype == torch.float32
    assert (ours - reference(skimage.color.rgb2lab, rgb / 255)).abs().max() < 1e-3
    assert (rgb_to_lab(rgb / 255) - ours).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_lab_to_rgb_equals_scikit_image_inside_and_outside_the_gamut():
    steps = torch.linspace(-128, 127, 52)
    a, b = torch.meshgrid(steps, steps, indexing="ij")
    for lightness in (0, 3, 8, 20, 50, 80, 100):
        lab = torch.stack([torch.full_like(a, lightness), a, b])[None]
        assert (lab_to_rgb(lab) - reference(skimage.color.lab2rgb, lab)).abs().max() < 1e-3


def test_every_uint8_colour_survives_the_round_trip():
    rgb = all_colours(3)
    assert torch.equal((lab_to_rgb(rgb_to_lab(rgb)) * 255).round().byte(), rgb)


def test_known_lightness():
    primaries = torch.eye(3).reshape(3, 3, 1, 1)
    assert rgb_to_lab(primaries)[:, 0].flatten().tolist() == pytest.approx([53.2, 87.7, 32.3], abs=0.05)
    grey = torch.full((1, 3, 1, 1), 119, dtype=torch.uint8)
    assert rgb_to_lab(grey)[0, 1:].abs().max() < 0.01  # grey has no colour


def test_range_of_srgb():
    lab = rgb_to_lab(all_colours(5))[0].flatten(1)
    low, high = lab.amin(dim=1).tolist(), lab.amax(dim=1).tolist()
    assert low == pytest.approx([0, -86.19, -107.86], abs=0.02)
    assert high == pytest.approx([100, 98.24, 94.48], abs=0.02)


@pytest.mark.parametrize(
    "lab", [(0, 0, 0), (100, 0, 0), (50, 200, -200), (0, -128, 127), (8, 0, 0), (100, 120, 120)]
)
def test_gradients_are_finite_everywhere(lab):
    lab = torch.tensor(lab, dtype=torch.float32).reshape(1, 3, 1, 1).requires_grad_()
    lab_to_rgb(lab).sum().backward()
    assert lab.grad.isfinite().all()
    rgb = lab_to_rgb(lab).detach().requires_grad_()
    rgb_to_lab(rgb).sum().backward()
    assert rgb.grad.isfinite().all()


def test_gradient_is_right():
    lab = torch.tensor([[55.0, 20.0, -15.0]]).reshape(1, 3, 1, 1).double()
    lab.requires_grad_()
    lab_to_rgb(lab)[0, 0].sum().backward()
    step = torch.zeros_like(lab)
    step[0, 1] = 1e-2
    numeric = (lab_to_rgb(lab + step) - lab_to_rgb(lab - step))[0, 0].sum() / 2e-2
    assert lab.grad[0, 1].item() == pytest.approx(numeric.item(), rel=1e-2)


def test_mixed_precision_around_it_changes_nothing():
    rgb = all_colours(51)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = rgb_to_lab(rgb)
        back = lab_to_rgb(inside)
    assert torch.equal(inside, rgb_to_lab(rgb)) and torch.equal(back, lab_to_rgb(inside))


def test_normalisation_is_the_courses():
    rgb = all_colours(51)
    L, ab = to_network(rgb)
    lab = rgb_to_lab(rgb)
    assert torch.allclose(L, lab[:, :1] / 50 - 1) and torch.allclose(ab, lab[:, 1:] / 110)
    assert (from_network(L, ab) - rgb / 255).abs().max() < 1e-4
    half = from_network(L.half(), ab.half())
    assert half.dtype == torch.float32 and (half - rgb / 255).abs().max() < 0.02


def test_strided_and_empty_batches():
    rgb = all_colours(51)
    assert torch.equal(rgb_to_lab(rgb.to(memory_format=torch.channels_last)), rgb_to_lab(rgb))
    assert rgb_to_lab(torch.empty(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "rgb, error, says",
    [
        (torch.zeros(3, 4, 4), ValueError, r"\(B, 3, H, W\)"),
        (torch.zeros(1, 4, 4, 3), ValueError, "permute"),
        (torch.full((1, 3, 2, 2), 255.0), ValueError, "divide by 255"),
        (torch.full((1, 3, 2, 2), -0.5), ValueError, "0..1"),
        (torch.full((1, 3, 2, 2), float("nan")), ValueError, "nan"),
        (torch.zeros(1, 3, 2, 2, dtype=torch.int64), TypeError, "uint8"),
        (np.zeros((1, 3, 2, 2)), TypeError, "from_numpy"),
    ],
)
def test_bad_rgb_is_refused_with_the_next_step(rgb, error, says):
    with pytest.raises(error, match=says):
        rgb_to_lab(rgb)


def test_bad_lab_is_refused():
    with pytest.raises(TypeError, match="float"):
        lab_to_rgb(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="shape"):
        lab_to_rgb(torch.zeros(3, 2, 2))
