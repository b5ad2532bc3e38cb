"""Lesson 07's losses, held against slow versions written out pixel by pixel from the formulas of the paper."""

import functools
import math

import numpy as np
import pytest
import skimage.color
import torch
from torch import nn

from colorize_utils.files import checkpoint
from colorize_utils.lab import to_network
from colorize_utils.losses import (
    AnnealedMean,
    ClassCrossEntropy,
    WeightedMSE,
    gamut_cells,
    rarity_weights,
    soft_encode,
)
from colorize_utils.metrics import ab_cells, color_frequency, measure
from colorize_utils.training import fit
from colorize_utils.unet import UNet

GREY = torch.full((4, 3, 16, 16), 128, dtype=torch.uint8)


@pytest.fixture(scope="module")
def frequency(tiny):
    return color_frequency(tiny.train)


@pytest.fixture(scope="module")
def ab(tiny):
    """True colours of three pictures: (3, 2, 16, 16)."""
    return to_network(tiny.validation[:3])[1]


@functools.cache
def cell_centers() -> np.ndarray:
    """The ab of each class, in units of Lab, counted independently: (Q, 2)."""
    levels = np.linspace(0, 1, 86)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    cells = np.rint(skimage.color.rgb2lab(rgb)[:, 0, 1:] / 10).astype(int)
    in_gamut = {tuple(cell) for cell in cells}
    return np.array(
        [(10 * a, 10 * b) for b in range(-11, 12) for a in range(-11, 12) if (a, b) in in_gamut]
    )


def test_the_gamut_is_that_of_scikit_image_and_of_all_colours():
    counts, levels = torch.zeros(529, dtype=torch.long), torch.arange(256, dtype=torch.uint8)
    for red in levels.split(8):
        colors = torch.cartesian_prod(red, levels, levels)
        counts += ab_cells(to_network(colors.T[None, :, :, None])[1]).flatten().bincount(minlength=529)
    assert torch.equal(counts.view(23, 23) > 0, gamut_cells())
    centers = cell_centers()
    b, a = gamut_cells().nonzero().T
    assert gamut_cells().sum() == len(centers) == 261
    assert np.array_equal(np.stack([10 * (a - 11), 10 * (b - 11)], axis=1), centers)


# ---- weights ----


def test_weights_follow_the_formula(frequency):
    for power, uniform in ((1, 0.5), (0.5, 0.5), (0.25, 0.1), (0, 1)):
        weights = rarity_weights(frequency, power, uniform)
        p = (frequency / frequency.sum()).double().numpy()
        slow = np.empty((23, 23))
        for b in range(23):
            for a in range(23):
                slow[b, a] = ((1 - uniform) * p[b, a] + uniform / 261) ** -power
        slow /= (p * slow).sum()
        np.testing.assert_allclose(weights.numpy(), slow, rtol=1e-5)


def test_the_mean_weight_of_training_pixels_is_about_one(tiny):
    """Exactly one over the blurred frequencies; over the pixels themselves nearly."""
    weights = rarity_weights(color_frequency(tiny.train))
    loss = WeightedMSE(weights)
    _, ab = to_network(tiny.train)
    assert loss(ab + 0.1, ab).item() == pytest.approx(0.01, rel=0.15)
    assert weights.max() / weights.min() > 3


def test_colours_never_seen_count_at_most_as_an_equal_share():
    weights = rarity_weights(color_frequency(GREY))  # nothing but grey was ever seen
    assert weights.isfinite().all() and weights.min() > 0
    seen, unseen = weights[11, 11], weights[22, 22]
    p = color_frequency(GREY)[11, 11]
    assert (unseen / seen).item() == pytest.approx((0.5 * p + 0.5 / 261).item() / (0.5 / 261), rel=1e-4)
    assert weights.max() == unseen


@pytest.mark.parametrize(
    "pictures", [GREY, GREY[:1, :, :1, :1], torch.tensor([[[[250]], [[10]], [[10]]]]).byte()]
)
def test_odd_training_sets_work(pictures):
    """All grey, one grey pixel, one red pixel."""
    loss, (_, ab) = WeightedMSE(rarity_weights(color_frequency(pictures))), to_network(pictures)
    assert loss(ab, ab).item() == 0 and 0 < loss(ab + 0.1, ab).item() < 1
    classes = ClassCrossEntropy(loss.weights)
    output = torch.zeros(len(ab), classes.count, *ab.shape[2:])
    assert classes(output, ab).isfinite()


# ---- the losses ----


def test_weighted_mse_is_the_mean_over_pixels_of_weight_times_error(frequency, ab):
    weights, output = rarity_weights(frequency), 0.5 * ab + 0.1
    total = 0.0
    for n in range(3):
        for y in range(16):
            for x in range(16):
                a, b = (110 * ab[n, :, y, x]).tolist()
                weight = weights[round(b / 10) + 11, round(a / 10) + 11].item()
                total += weight * ((output - ab)[n, :, y, x] ** 2).mean().item()
    assert WeightedMSE(weights)(output, ab).item() == pytest.approx(total / (3 * 16 * 16), rel=1e-5)


def test_equal_weights_give_the_plain_losses(ab):
    ones, output = torch.ones(23, 23), 0.5 * ab + 0.1
    assert torch.allclose(WeightedMSE(ones)(output, ab), nn.functional.mse_loss(output, ab))
    logits = torch.randn(3, 261, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ClassCrossEntropy(ones)(logits, ab), ClassCrossEntropy()(logits, ab))


def slow_shares(ab) -> np.ndarray:
    """The soft target of one pixel, from its distance to every class: (261,)."""
    distance = 110 * ab.double().numpy() - cell_centers()
    share = np.exp(-(distance**2).sum(axis=1) / (2 * 5**2))
    nearest = np.rint(110 * ab.double().numpy() / 10) * 10
    share[np.abs(cell_centers() - nearest).max(axis=1) > 10] = 0  # the nine around
    return share / share.sum()


def test_soft_encoding_and_cross_entropy_are_those_of_the_paper(frequency, ab):
    weights = rarity_weights(frequency)
    loss = ClassCrossEntropy(weights)
    logits = torch.randn(1, 261, 16, 16, generator=torch.Generator().manual_seed(0))
    index, share = soft_encode(ab[:1], loss.class_of)
    assert index.shape == share.shape == (1, 9, 16, 16)
    total = 0.0
    for y in range(16):
        for x in range(16):
            slow = slow_shares(ab[0, :, y, x])
            dense = np.zeros(261)
            np.add.at(dense, index[0, :, y, x].numpy(), share[0, :, y, x].numpy())
            np.testing.assert_allclose(dense, slow, atol=2e-5)
            a, b = (110 * ab[0, :, y, x]).tolist()
            weight = weights[round(b / 10) + 11, round(a / 10) + 11].item()
            z = logits[0, :, y, x].double().numpy()
            total -= weight * (slow * (z - np.log(np.exp(z).sum()))).sum()
    assert loss(logits, ab[:1]).item() == pytest.approx(total / 256, rel=1e-4)


def test_every_colour_of_the_screen_can_be_encoded():
    corners = torch.cartesian_prod(*[torch.tensor([0, 1, 127, 254, 255])] * 3).byte()
    _, ab = to_network(corners.T[None, :, :, None])
    index, share = soft_encode(ab, ClassCrossEntropy().class_of)
    assert share.isfinite().all() and torch.allclose(share.sum(dim=1), torch.ones(1, 125, 1))
    assert (share.amax(dim=1) > 0.25).all()


def test_the_annealed_mean_goes_from_mean_to_mode():
    logits = torch.randn(2, 261, 3, 4, generator=torch.Generator().manual_seed(0))
    for T in (1, 0.38, 0.05):
        z = logits.double().numpy() / T
        share = np.exp(z - z.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        slow = np.einsum("bqhw,qc->bchw", share, cell_centers()) / 110
        np.testing.assert_allclose(AnnealedMean(T)(logits).numpy(), slow, atol=1e-5)
    mode = torch.from_numpy(cell_centers()[logits.argmax(dim=1)] / 110).permute(0, 3, 1, 2)
    assert torch.allclose(AnnealedMean(0.001)(logits).double(), mode, atol=1e-4)
    assert AnnealedMean(0.38)(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", ["weighted", "classes"])
def test_what_would_go_on_silently_is_refused(name, ab):
    """An output that broadcasts, or gathers from a larger picture; weights of another grid."""
    for weights, channels, size, message in (
        (torch.ones(23, 23), 1, 16, r"out_channels="),
        (torch.ones(23, 23), 300, 16, r"out_channels="),
        (torch.ones(23, 23), 261 if name == "classes" else 2, 32, r"out_channels="),
        (torch.ones(40, 40), 261 if name == "classes" else 2, 16, "another grid"),
    ):
        loss = (WeightedMSE if name == "weighted" else ClassCrossEntropy)(weights)
        with pytest.raises(AssertionError, match=message):
            loss(torch.zeros(3, channels, size, size), ab)
    with pytest.raises(AssertionError, match="0.001"):
        AnnealedMean(0)


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
    for power in (0.5, -1):
        other = rarity_weights(frequency, power)
        other = weights.flatten().roll(1).view(23, 23) if power < 0 else other  # equal extremes
        with pytest.raises(ValueError, match="loss"):
            fit(model, tiny, epochs=4, loss=kind(other), **run)


def test_on_the_two_colour_world_each_loss_gives_its_own_answer():
    """Seven in ten dull, three in ten red: mean, median, mode, and what rarity makes of them."""
    dull, red = torch.tensor([-8.0, 14.0]) / 110, torch.tensor([62.0, 42.0]) / 110
    ab = torch.stack([dull] * 7 + [red] * 3).T[None, :, None]  # (1, 2, 1, 10)
    weights = torch.full((23, 23), 7 / 3)
    weights[10:14, 9:12] = 1  # around dull

    def answer(loss, channels=2):
        table = torch.zeros(1, channels, 1, 1, requires_grad=True)
        optimizer = torch.optim.Adam([table], lr=0.02)
        for _ in range(500):
            optimizer.zero_grad()
            loss(table.expand(-1, -1, 1, 10), ab).backward()
            optimizer.step()
        output = table.detach()
        return (output if channels == 2 else AnnealedMean(0.05)(output))[0, :, 0, 0]

    def is_close(found, wanted, units=2.5):
        return torch.dist(found, wanted).item() < units / 110

    assert is_close(answer(nn.MSELoss()), 0.7 * dull + 0.3 * red)
    assert is_close(answer(nn.L1Loss()), dull)
    assert is_close(answer(WeightedMSE(weights)), 0.5 * dull + 0.5 * red)
    assert is_close(answer(ClassCrossEntropy(), 261), torch.round(11 * dull) / 11, units=5)
    weights[15, 17] = 5
    assert is_close(answer(ClassCrossEntropy(weights), 261), torch.round(11 * red) / 11, units=5)
