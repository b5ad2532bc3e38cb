import functools
import math

import numpy as np
import pytest
import skimage.color
import torch
from torch import nn

from colorize_utils import losses
from colorize_utils.files import checkpoint
from colorize_utils.lab import to_network
from colorize_utils.losses import AnnealedMean, ClassCrossEntropy, WeightedMSE, rarity_weights
from colorize_utils.measuring import measure
from colorize_utils.metrics import ab_cells, color_frequency
from colorize_utils.training import fit
from colorize_utils.unet import UNet

LOGITS = torch.randn(3, 261, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def frequency(tiny):
    return color_frequency(tiny.train)


@pytest.fixture(scope="module")
def ab(tiny):
    return to_network(tiny.validation[:3])[1]  # (3, 2, 16, 16)


@functools.cache
def cell_centers() -> np.ndarray:
    """The ab of each class, in units of Lab, counted independently: (Q, 2)."""
    levels = np.linspace(0, 1, 86)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    cells = np.rint(skimage.color.rgb2lab(rgb)[:, 0, 1:] / 10).astype(int)
    return 10 * np.array(sorted({(a, b) for a, b in cells}, key=lambda cell: cell[::-1]))


def slow_weights(weights, ab) -> np.ndarray:
    a, b = np.rint(11 * ab.numpy()).astype(int).transpose(1, 0, 2, 3) + 11
    return weights.numpy()[b, a]


def slow_shares(ab) -> np.ndarray:
    """The soft target of one pixel, from its distance to every class: (261,)."""
    distance = 110 * ab.double().numpy() - cell_centers()
    share = np.exp(-(distance**2).sum(axis=1) / (2 * 5**2))
    nearest = np.rint(110 * ab.double().numpy() / 10) * 10
    share[np.abs(cell_centers() - nearest).max(axis=1) > 10] = 0  # the nine around
    return share / share.sum()


def test_the_gamut_is_that_of_scikit_image_and_of_all_colours():
    counts, levels = torch.zeros(529, dtype=torch.long), torch.arange(256, dtype=torch.uint8)
    for red in levels.split(8):
        colors = torch.cartesian_prod(red, levels, levels)
        cells = ab_cells(to_network(colors.T[None, :, :, None])[1])
        counts += cells.flatten().bincount(minlength=529)
    assert torch.equal(counts.view(23, 23) > 0, losses.gamut_cells())
    assert np.array_equal(10 * (losses.gamut_cells().nonzero().flip(1) - 11), cell_centers())


@pytest.mark.parametrize("power, uniform", [(1, 0.5), (0.5, 0.5), (0.25, 0.1), (0, 1)])
def test_weights_follow_the_formula(tiny, frequency, power, uniform):
    p = (frequency / frequency.sum()).double().numpy()
    slow = ((1 - uniform) * p + uniform / 261) ** -power
    slow /= (p * slow).sum()
    weights = rarity_weights(frequency, power, uniform)
    np.testing.assert_allclose(weights.numpy(), slow, rtol=1e-5)
    _, ab = to_network(tiny.train)  # about 1 in the mean over the pixels themselves, too
    assert WeightedMSE(weights)(ab + 0.1, ab).item() == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize("color, size", [([128, 128, 128], 16), ([250, 10, 10], 1)])
def test_a_colour_never_seen_counts_as_an_equal_share_however_odd_the_set(color, size):
    pictures = torch.tensor(color).byte().view(1, 3, 1, 1).expand(2, 3, size, size)
    frequency, (_, ab) = color_frequency(pictures), to_network(pictures)
    loss, cell = WeightedMSE(rarity_weights(frequency)), ab_cells(ab)[0, 0, 0]
    seen, unseen = loss.weights.flatten()[cell], loss.weights[22, 22]
    wanted = (frequency.flatten()[cell] / frequency.sum() / 2 + 0.5 / 261) / (0.5 / 261)
    assert (unseen / seen).item() == pytest.approx(wanted.item(), rel=1e-4)
    assert unseen == loss.weights.max() and loss.weights.min() > 0
    assert loss(ab, ab).item() == 0 and 0 < loss(ab + 0.1, ab).item() < 1
    assert ClassCrossEntropy(loss.weights)(torch.zeros(len(ab), 261, *ab.shape[2:]), ab).isfinite()


def test_weighted_mse_is_the_mean_over_pixels_of_weight_times_error(frequency, ab):
    weights, output = rarity_weights(frequency), 0.5 * ab + 0.1
    slow = slow_weights(weights, ab) * ((output - ab).numpy() ** 2).mean(axis=1)
    assert WeightedMSE(weights)(output, ab).item() == pytest.approx(slow.mean(), rel=1e-5)
    ones = torch.ones(23, 23)
    assert torch.allclose(WeightedMSE(ones)(output, ab), nn.functional.mse_loss(output, ab))
    assert torch.equal(ClassCrossEntropy(ones)(LOGITS, ab), ClassCrossEntropy()(LOGITS, ab))


def test_soft_encoding_and_cross_entropy_are_those_of_the_paper(frequency, ab):
    ab, weights = ab.clone(), rarity_weights(frequency)
    ab[0, :, 0, 0] = torch.tensor([79.19, -107.86]) / 110  # blue, at the edge of the grid
    loss, total, weight = ClassCrossEntropy(weights), 0.0, slow_weights(weights, ab[:1])[0]
    index, share = losses.soft_encode(ab[:1], loss.class_of)
    assert index.shape == share.shape == (1, 9, 16, 16)
    for y, x in np.ndindex(16, 16):
        slow, dense = slow_shares(ab[0, :, y, x]), np.zeros(261)
        np.add.at(dense, index[0, :, y, x].numpy(), share[0, :, y, x].numpy())
        np.testing.assert_allclose(dense, slow, atol=2e-5)
        z = LOGITS[0, :, y, x].double().numpy()
        total -= weight[y, x] * (slow * (z - np.log(np.exp(z).sum()))).sum()
    assert loss(LOGITS[:1], ab[:1]).item() == pytest.approx(total / 256, rel=1e-4)
    corners = torch.cartesian_prod(*[torch.tensor([0, 1, 127, 254, 255])] * 3).byte()
    _, ab = to_network(corners.T[None, :, :, None])  # every colour of the screen can be encoded
    index, share = losses.soft_encode(ab, loss.class_of)
    assert share.isfinite().all() and torch.allclose(share.sum(dim=1), torch.ones(1, 125, 1))
    assert (share.amax(dim=1) > 0.25).all()


def test_the_annealed_mean_goes_from_mean_to_mode():
    for T in (1, 0.38, 0.05):
        share = np.exp((z := LOGITS.double().numpy() / T) - z.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        slow = np.einsum("bqhw,qc->bchw", share, cell_centers()) / 110
        np.testing.assert_allclose(AnnealedMean(T)(LOGITS).numpy(), slow, atol=1e-5)
    mode = torch.from_numpy(cell_centers()[LOGITS.argmax(dim=1)] / 110).permute(0, 3, 1, 2)
    assert torch.allclose(AnnealedMean(0.001)(100 * LOGITS).double(), mode, atol=1e-3)
    assert AnnealedMean(0.38)(LOGITS.bfloat16()).dtype == torch.float32
    with pytest.raises(AssertionError, match="0.001 is nearly the mode"):
        AnnealedMean(0)


@pytest.mark.parametrize("kind, channels", [(WeightedMSE, 2), (ClassCrossEntropy, 261)])
def test_what_would_go_on_silently_is_refused(kind, channels, ab):
    for outputs, size in ((1, 16), (300, 16), (channels, 32)):
        with pytest.raises(AssertionError, match=rf"UNet\(out_channels={channels}\)"):
            kind(torch.ones(23, 23))(torch.zeros(3, outputs, size, size), ab)
    with pytest.raises(AssertionError, match="another grid"):
        kind(torch.ones(40, 40))(torch.zeros(3, channels, 16, 16), ab)


@pytest.mark.parametrize("kind", [WeightedMSE, ClassCrossEntropy])
def test_fit_takes_the_losses_and_keeps_the_weights(kind, frequency, tiny, tmp_path):
    weights = rarity_weights(frequency)
    model = UNet(out_channels=getattr(kind(weights), "count", 2), base_width=2)
    run = dict(batch_size=16, learning_rate=1e-2, folder=tmp_path)
    history = fit(model, tiny, epochs=2, loss=kind(weights), **run)
    assert history["train"][1] < history["train"][0]
    content = checkpoint.read(tmp_path / "best.pt")
    assert torch.equal(content["loss"]["weights"], weights)
    model.load_state_dict(content["model"])
    painter = nn.Sequential(model, AnnealedMean()) if kind is ClassCrossEntropy else model
    assert all(map(math.isfinite, measure(painter, tiny.test, frequency).values()))
    more = fit(model, tiny, epochs=3, loss=kind(weights), **run)
    assert more["train"][:2] == history["train"] and len(more["train"]) == 3
    with pytest.raises(ValueError, match="loss"):  # the same extremes in other places
        fit(model, tiny, epochs=4, loss=kind(weights.T.contiguous()), **run)
