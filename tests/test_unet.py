import pytest
import torch
import torch.nn.functional as F

from colorize_utils.unet import UNet


@pytest.mark.parametrize(
    "width, count", [(8, 487_154), (16, 1_943_778), (32, 7_765_442), (64, 31_042_434)]
)
def test_parameter_counts(width, count):
    assert sum(p.numel() for p in UNet(base_width=width).parameters()) == count


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31), (32, 48), (100, 3)])
def test_any_size_comes_out_as_it_went_in(size):
    model = UNet(base_width=2).eval()
    assert model(torch.zeros(1, 1, *size)).shape == (1, 2, *size)


def test_other_channels():
    assert UNet(3, 5, base_width=2).eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 5, 16, 16)


def test_wiring_equals_the_papers():
    """The same layers, called by hand: skips before the enlarged map, levels in mirrored order."""
    torch.manual_seed(0)
    model = UNet(base_width=2).eval()
    x = torch.randn(2, 1, 48, 32)
    level = [model.first(x)]
    for down in model.down:
        level.append(down[1](F.max_pool2d(level[-1], 2)))
    y = level[4]
    for up, skip in zip(model.up, level[3::-1]):
        weight, bias = up.enlarge.weight, up.enlarge.bias
        y = up.convs(torch.cat([skip, F.conv_transpose2d(y, weight, bias, stride=2)], dim=1))
    expected = F.conv2d(y, model.last.weight, model.last.bias)
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_padding_repeats_the_edge_and_is_cut_off():
    torch.manual_seed(0)
    model = UNet(base_width=2).eval()
    x = torch.randn(1, 1, 20, 30)
    padded = F.pad(x, (0, 2, 0, 12), mode="replicate")
    assert torch.equal(model(x), model(padded)[..., :20, :30])


def test_the_deepest_level_reaches_the_output():
    model = UNet(base_width=2)
    model(torch.randn(2, 1, 32, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.down[3][1][0].weight.grad.abs().sum() > 0


def test_one_picture_trains_if_it_is_large_enough():
    UNet(base_width=2).train()(torch.zeros(1, 1, 17, 16))
    with pytest.raises(ValueError, match="larger batch or picture"):
        UNet(base_width=2).train()(torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 16, 16), (1, 1, 16), (0, 1, 8, 8), (1, 1, 0, 8)])
def test_wrong_inputs_are_named(shape):
    with pytest.raises(ValueError, match=r"must have the shape \(B, 1, H, W\)"):
        UNet(base_width=2)(torch.zeros(shape))


def test_bytes_are_refused():
    with pytest.raises(TypeError, match="float tensor, not torch.uint8: see to_network"):
        UNet(base_width=2)(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))


def test_wrong_width_is_named():
    with pytest.raises(ValueError, match="at least 1"):
        UNet(base_width=0)
