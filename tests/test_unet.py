import pytest
import torch
import torch.nn.functional as F

from colorize_utils.unet import UNet


@pytest.mark.parametrize("width, count", [(8, 487_154), (32, 7_765_442), (64, 31_042_434)])
def test_parameter_counts(width, count):
    assert sum(p.numel() for p in UNet(base_width=width).parameters()) == count


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (5, 40), (17, 31), (32, 48), (100, 3)])
def test_one_picture_of_any_size_trains_and_comes_out_as_it_went_in(size):
    model = UNet(3, 5, base_width=2).train()
    output = model(torch.rand(1, 3, *size))
    assert output.shape == (1, 5, *size) and output.isfinite().all()
    output.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.eval()(torch.rand(2, 3, *size)).shape == (2, 5, *size)


@pytest.mark.parametrize("size, padded", [
    ((48, 32), (48, 32)), ((20, 30), (32, 32)), ((5, 50), (32, 64)), ((33, 48), (48, 48)),
])  # fmt: skip
def test_it_is_the_papers_net_on_the_picture_with_its_edge_repeated(size, padded):
    """The same layers, called by hand: skips before the enlarged map, levels in mirrored order."""
    torch.manual_seed(0)
    model = UNet(base_width=2).eval()
    (height, width), x = size, torch.randn(2, 1, *size)
    larger = F.pad(x, (0, padded[1] - width, 0, padded[0] - height), mode="replicate")
    level = [model.first(larger)]
    for down in model.down:
        level.append(down[1](F.max_pool2d(level[-1], 2)))
    y = level[4]
    for up, skip in zip(model.up, level[3::-1]):
        weight, bias = up.enlarge.weight, up.enlarge.bias
        y = up.convs(torch.cat([skip, F.conv_transpose2d(y, weight, bias, stride=2)], dim=1))
    y = F.conv2d(y, model.last.weight, model.last.bias)
    assert torch.equal(model(x), y[..., :height, :width])


@pytest.mark.parametrize("width", [0, -1, 2.5, "16", None, 4096])
def test_a_wrong_width_is_named(width):
    with pytest.raises(AssertionError, match=f"base_width={width!r}"):
        UNet(base_width=width)
