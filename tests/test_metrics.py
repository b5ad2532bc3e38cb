import math

import numpy as np
import pytest
import skimage.color
import skimage.metrics
import torch
import torchmetrics.functional.image as reference
from scipy.ndimage import gaussian_filter
from torch import nn

from colorize_utils.data import Images, load_images, sample_images
from colorize_utils.lab import from_network, to_network
from colorize_utils.metrics import (
    PaintMean,
    auc,
    balanced_auc,
    color_frequency,
    colorfulness,
    delta_e,
    evaluate,
    measure,
    psnr,
    rarity,
    score_table,
    ssim,
)
from colorize_utils.training import PaintGrey
from colorize_utils.unet import UNet

# CIEDE2000 test data of Sharma, Wu and Dalal 2005, table 1: L1 a1 b1 L2 a2 b2 difference
SHARMA = """
50 2.6772 -79.7751  50 0 -82.7485  2.0425
50 3.1571 -77.2803  50 0 -82.7485  2.8615
50 2.8361 -74.0200  50 0 -82.7485  3.4412
50 -1.3802 -84.2814  50 0 -82.7485  1.0000
50 -1.1848 -84.8006  50 0 -82.7485  1.0000
50 -0.9009 -85.5211  50 0 -82.7485  1.0000
50 0 0  50 -1 2  2.3669
50 -1 2  50 0 0  2.3669
50 2.4900 -0.0010  50 -2.4900 0.0009  7.1792
50 2.4900 -0.0010  50 -2.4900 0.0010  7.1792
50 2.4900 -0.0010  50 -2.4900 0.0011  7.2195
50 2.4900 -0.0010  50 -2.4900 0.0012  7.2195
50 -0.0010 2.4900  50 0.0009 -2.4900  4.8045
50 -0.0010 2.4900  50 0.0010 -2.4900  4.8045
50 -0.0010 2.4900  50 0.0011 -2.4900  4.7461
50 2.5 0  50 0 -2.5  4.3065
50 2.5 0  73 25 -18  27.1492
50 2.5 0  61 -5 29  22.8977
50 2.5 0  56 -27 -3  31.9030
50 2.5 0  58 24 15  19.4535
50 2.5 0  50 3.1736 0.5854  1.0000
50 2.5 0  50 3.2972 0  1.0000
50 2.5 0  50 1.8634 0.5757  1.0000
50 2.5 0  50 3.2592 0.3350  1.0000
60.2574 -34.0099 36.2677  60.4626 -34.1751 39.4387  1.2644
63.0109 -31.0961 -5.8663  62.8187 -29.7946 -4.0864  1.2630
61.2901 3.7196 -5.3901  61.4292 2.2480 -4.9620  1.8731
35.0831 -44.1164 3.7933  35.0232 -40.0716 1.5901  1.8645
22.7233 20.0904 -46.6940  23.0331 14.9730 -42.5619  2.0373
36.4612 47.8580 18.3852  36.2715 50.5065 21.2231  1.4146
90.8027 -2.0831 1.4410  91.1528 -1.6435 0.0447  1.4441
90.9257 -0.5406 -0.9208  88.6381 -0.8985 -0.7239  1.5381
6.7747 -0.2908 -2.4247  5.8714 -0.0985 -2.2286  0.6377
2.0776 0.0795 -1.1350  0.9033 -0.0636 -0.5514  0.9082
"""


@pytest.fixture(scope="module")
def photos() -> Images:
    return sample_images(32)


@pytest.fixture(scope="module")
def pair(photos):
    """Twelve pictures and predictions of them: the truth with noise, blurred colours, none."""
    truth = photos.train[::125]
    L, ab = to_network(truth)
    noise = torch.randn(ab.shape, generator=torch.Generator().manual_seed(0)) / 20
    return from_network(L, torch.cat([ab[:4] + noise[:4], 0.5 * ab[4:8], 0 * ab[8:]])), truth


def as_numpy(pictures):
    pictures = pictures.double() / 255 if pictures.dtype == torch.uint8 else pictures.double()
    return pictures.permute(0, 2, 3, 1).numpy()


# ---- held against references ----


def test_psnr_is_that_of_scikit_image_and_torchmetrics(pair):
    prediction, truth = pair
    ours = psnr(prediction, truth)
    theirs = [skimage.metrics.peak_signal_noise_ratio(t, p, data_range=1)
              for t, p in zip(as_numpy(truth), as_numpy(prediction))]  # fmt: skip
    torch.testing.assert_close(ours.double(), torch.tensor(theirs), rtol=1e-4, atol=0)
    all_dims = dict(data_range=1.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(
        ours, reference.peak_signal_noise_ratio(prediction, truth / 255, **all_dims)
    )


def test_ssim_is_that_of_scikit_image_and_torchmetrics(pair):
    prediction, truth = pair
    ours = ssim(prediction, truth)
    of_wang = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1)
    theirs = [skimage.metrics.structural_similarity(t, p, data_range=1, **of_wang)
              for t, p in zip(as_numpy(truth), as_numpy(prediction))]  # fmt: skip
    torch.testing.assert_close(ours.double(), torch.tensor(theirs), rtol=0, atol=1e-4)
    everywhere = dict(data_range=1.0, reduction="none", return_full_image=True)
    _, also = reference.structural_similarity_index_measure(prediction, truth / 255, **everywhere)
    whole_windows = also[..., 5:-5, 5:-5]  # torchmetrics mirrors the pictures at their borders, we don't
    torch.testing.assert_close(ours, whole_windows.mean(dim=(1, 2, 3)), rtol=0, atol=1e-4)


def test_delta_e_of_the_pairs_that_sharma_published():
    table = torch.tensor(
        [[float(x) for x in row.split()] for row in SHARMA.split("\n") if row], dtype=torch.float64
    )
    assert table.shape == (34, 7)
    one, two = table[:, :3].view(34, 3, 1, 1), table[:, 3:6].view(34, 3, 1, 1)
    for a, b in ((one, two), (two, one)):
        assert (delta_e(a, b).flatten() - table[:, 6]).abs().max() < 1e-4


def test_delta_e_is_that_of_scikit_image_in_single_precision_too(pair):
    lab1, lab2 = (torch.from_numpy(skimage.color.rgb2lab(as_numpy(x))).permute(0, 3, 1, 2) for x in pair)
    theirs = skimage.color.deltaE_ciede2000(lab1.numpy(), lab2.numpy(), channel_axis=1)
    assert np.abs(delta_e(lab1, lab2).numpy() - theirs).max() < 1e-9
    single = delta_e(lab1.float(), lab2.float())
    assert single.dtype == torch.float32 and np.abs(single.numpy() - theirs).max() < 1e-2


def in_numpy(ab, truth, training):
    """AuC by its definition, and balanced AuC, pixel by pixel."""
    ab, truth, training = (
        x.double().permute(0, 2, 3, 1).reshape(-1, 2).numpy() * 110 for x in (ab, truth, training)
    )
    distance = np.hypot(*(ab - truth).T)
    curve = [(distance <= limit).mean() for limit in np.arange(0, 150, 0.05)]
    edges = np.arange(-115, 116, 10)
    counts, _, _ = np.histogram2d(*training.T, bins=[edges, edges])
    share = gaussian_filter(counts / counts.sum(), 0.5, mode="constant")
    cell = np.rint(truth / 10).astype(int) + 11
    weight = 1 / np.maximum(share[cell[:, 0], cell[:, 1]], 1e-6)
    return 100 * np.mean(curve), 100 * (1 - np.average(np.minimum(distance, 150) / 150, weights=weight))


def test_auc_and_balanced_auc_are_what_their_definitions_say(photos):
    truth = to_network(photos.test[:40])[1]
    ab = truth + torch.randn(truth.shape, generator=torch.Generator().manual_seed(1)) / 4
    plain, balanced = in_numpy(ab, truth, to_network(photos.train)[1])
    assert auc(ab, truth).mean().item() == pytest.approx(plain, abs=0.02)
    frequency = color_frequency(photos.train)
    assert balanced_auc(ab, truth, frequency).item() == pytest.approx(balanced, abs=1e-3)
    assert abs(plain - balanced) > 0.1  # else the test could not tell them apart


def test_frequency_counts_every_pixel_and_lies_along_b_and_a():
    red, other = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    red[0] = 255  # a = 80.1, b = 67.2: columns 19, rows 18
    frequency = color_frequency(torch.stack([red, red, red, other]))
    assert frequency.shape == (23, 23) and frequency.sum().item() == pytest.approx(1, abs=1e-5)
    peak = math.exp(0) / sum(math.exp(-(x**2) / 0.5) for x in range(-2, 3))
    assert frequency[18, 19].item() == pytest.approx(0.75 * peak**2, rel=1e-4)
    assert frequency[11, 11].item() == pytest.approx(0.25 * peak**2, rel=1e-4)


def test_a_colour_never_seen_weighs_a_million_and_not_infinitely_much():
    frequency = color_frequency(torch.full((2, 3, 4, 4), 128, dtype=torch.uint8))
    vivid = torch.full((1, 2, 1, 1), 0.5)
    assert rarity(vivid, frequency).item() == pytest.approx(1e6)
    assert 1 < rarity(0 * vivid, frequency).item() < 2


def test_colorfulness_is_the_signed_formula(photos):
    for picture in photos.train[::300]:
        r, g, b = as_numpy(picture[None])[0].reshape(-1, 3).T * 255
        rg, yb = r - g, (r + g) / 2 - b
        expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
        assert colorfulness(picture[None]).item() == pytest.approx(expected, rel=1e-4)
    half = torch.zeros(1, 3, 2, 2)
    half[:, 0, 0] = half[:, 1, 1] = (
        1  # a red and a green row: R - G cancels in the mean, |R - G| would not vary
    )
    assert colorfulness(half).item() == pytest.approx(255 + 0.3 * 127.5)


def test_cifar100_painted_grey(real_cifar100):
    images = load_images("cifar100", real_cifar100)
    training = torch.cat([images.train, images.validation])
    found = measure(PaintGrey(), images.test, color_frequency(training))
    assert found["psnr"] == pytest.approx(22.83, abs=0.005)
    assert found["delta_e"] == pytest.approx(11.40, abs=0.006)
    assert found["auc"] == pytest.approx(88.44, abs=0.005)
    assert colorfulness(images.test).mean().item() == pytest.approx(40.08, abs=0.005)


# ---- whole sets ----


class PaintTruth(nn.Module):
    """Gives back the colours of the pictures that it was made with, one batch after the other."""

    def __init__(self, pictures, batch_size):
        super().__init__()
        self.ab = iter(to_network(pictures)[1].split(batch_size))

    def forward(self, L):
        return next(self.ab)


def test_the_truth_scores_perfectly(photos):
    found = measure(
        PaintTruth(photos.test, 64), photos.test, color_frequency(photos.train), batch_size=64
    )
    assert found["psnr"] > 100 and found["ssim"] == pytest.approx(1, abs=1e-5)
    assert found["delta_e"] < 0.01 and found["auc"] == pytest.approx(100) == found["balanced_auc"]
    assert found["share"] == pytest.approx(1, abs=1e-4)


def test_measure_does_not_depend_on_the_batches_and_means_what_it_says(photos):
    torch.manual_seed(0)
    model, pictures = UNet(base_width=2).train(), photos.test[:50].clone()
    pictures[:5] = pictures[:5, :1]  # exactly grey
    frequency = color_frequency(photos.train)
    once = measure(model, pictures, frequency, batch_size=50)
    assert measure(model, pictures, frequency, batch_size=7) == pytest.approx(once, rel=1e-5)
    assert model.training
    L, truth = to_network(pictures)
    with torch.no_grad():
        ab = model.eval()(L)
    rgb = from_network(L, ab)
    assert once["psnr"] == pytest.approx(
        psnr(rgb, pictures)[5:].mean().item(), rel=1e-5
    )  # grey ones left out
    assert once["auc"] == pytest.approx(auc(ab, truth).mean().item(), rel=1e-5)  # before clipping
    assert once["balanced_auc"] == pytest.approx(balanced_auc(ab, truth, frequency).item(), rel=1e-5)
    assert once["colorfulness"] == pytest.approx(colorfulness(rgb).mean().item(), rel=1e-5)
    assert once["share"] == pytest.approx(
        once["colorfulness"] / colorfulness(pictures).mean().item(), rel=1e-5
    )


def test_the_mean_colour_is_the_mean_of_ab_and_no_constant_is_better(photos):
    painter = PaintMean(photos.train)
    truth = to_network(photos.train)[1]
    L = torch.zeros(2, 1, 5, 7)
    assert painter(L).shape == (2, 2, 5, 7)
    torch.testing.assert_close(painter(L)[0, :, 0, 0], truth.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_baselines_stand_beside_every_figure(photos):
    few = Images(photos.train[:100], photos.validation[:20], photos.test[:20])
    torch.manual_seed(0)
    found = evaluate(UNet(base_width=2), few, "validation")
    assert list(found) == ["grey", "mean colour", "U-Net"]
    frequency = color_frequency(few.train)
    assert found["grey"] == measure(PaintGrey(), few.validation, frequency)
    assert found["mean colour"] == measure(PaintMean(few.train), few.validation, frequency)
    assert found["grey"]["colorfulness"] < 0.01 < found["mean colour"]["colorfulness"]
    table = score_table(found, "validation").splitlines()
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    assert (
        f"{found['grey']['psnr']:.2f}" in table[1]
        and f"{found['U-Net']['balanced_auc']:.2f}" in table[3]
    )


# ---- bad input ----


def test_identical_pictures_have_infinite_psnr(photos):
    assert torch.isinf(psnr(photos.test[:3], photos.test[:3])).all()
    torch.testing.assert_close(ssim(photos.test[:3], photos.test[:3]), torch.ones(3))
    lab = torch.rand(2, 3, 4, 4) * 50
    assert delta_e(lab, lab).max() == 0


def test_black_white_and_grey_give_numbers_not_nan():
    for value in (0.0, 0.5, 1.0):
        flat = torch.full((1, 3, 16, 16), value)
        other = torch.full((1, 3, 16, 16), 0.25)
        for metric in (psnr, ssim):
            assert metric(flat, other).isfinite().all()
        assert colorfulness(flat).item() == 0
    grey = torch.tensor([50.0, 0, 0]).view(1, 3, 1, 1)
    assert delta_e(grey, grey + torch.tensor([10.0, 0, 0]).view(1, 3, 1, 1)).item() == pytest.approx(
        9.47, abs=0.01
    )


def test_one_pixel():
    one, two = torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 0.1)
    assert psnr(one, two).item() == pytest.approx(20, abs=1e-4)
    assert colorfulness(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)).item() == pytest.approx(
        0.3 * math.hypot(255, 127.5), rel=1e-5
    )
    with pytest.raises(ValueError, match="SSIM needs at least 11 x 11 pixels"):
        ssim(one, two)


PIXELS = torch.rand(2, 3, 16, 16)


@pytest.mark.parametrize(
    "metric", [psnr, ssim, lambda p, t: colorfulness(p)], ids=["psnr", "ssim", "colorfulness"]
)
@pytest.mark.parametrize("prediction, message", [
    (PIXELS * 2, "must lie in 0..1"),
    (PIXELS * torch.nan, "must lie in 0..1"),
    (PIXELS[:0], "no pictures to measure"),
    (PIXELS[..., :0], "no pictures to measure"),
    (PIXELS[:, :2], "must have the shape"),
    (PIXELS[0], "must have the shape"),
])  # fmt: skip
def test_bad_pictures_are_refused(metric, prediction, message):
    with pytest.raises(ValueError, match=message):
        metric(prediction, prediction)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("truth", [PIXELS[:1], PIXELS[..., :15]])
def test_pictures_of_different_sizes_are_refused(metric, truth):
    with pytest.raises(ValueError, match="make them equal"):
        metric(PIXELS, truth)


AB = torch.rand(2, 2, 4, 4) - 0.5


@pytest.mark.parametrize("metric", [auc, lambda ab, truth: balanced_auc(ab, truth, torch.full((23, 23), 1 / 529))],
                         ids=["auc", "balanced_auc"])  # fmt: skip
@pytest.mark.parametrize("ab, truth, message", [
    (AB, AB[:1], "alike"),
    (AB, AB[..., :3], "alike"),
    (AB[:0], AB[:0], "alike"),
    (AB[:, :1], AB[:, :1], "alike"),
    (AB * torch.nan, AB, "NaN or infinite"),
    (AB / 0, AB, "NaN or infinite"),
    (AB, AB * torch.nan, "divide units of Lab by 110"),
    (AB * 110, AB * 110, "divide units of Lab by 110"),
])  # fmt: skip
def test_bad_ab_is_refused(metric, ab, truth, message):
    with pytest.raises(ValueError, match=message):
        metric(ab, truth)


def test_delta_e_of_half_precision_huge_and_whole_numbers():
    one, two = torch.tensor([[50.0, 40, 30], [55, 45, -30]]).view(2, 1, 3, 1, 1)
    expected = skimage.color.deltaE_ciede2000(one.numpy(), two.numpy(), channel_axis=1).item()
    assert delta_e(one.half(), two.half()).item() == pytest.approx(expected, abs=0.01)
    assert delta_e(one * 1e5, two * 1e5).isfinite().all()
    with pytest.raises(TypeError, match="must be floats"):
        delta_e(one.long(), two.long())


@pytest.mark.parametrize(
    "frequency", [torch.ones(40, 40), torch.full((23, 23), torch.nan), -torch.ones(23, 23)]
)
def test_bad_frequencies_are_refused(frequency):
    with pytest.raises(ValueError, match="use color_frequency"):
        balanced_auc(AB, AB, frequency)


@pytest.mark.parametrize("bad", [PIXELS[:1], PIXELS[:, :2], PIXELS[:0], PIXELS * torch.nan])
def test_bad_lab_is_refused(bad):
    with pytest.raises(ValueError, match="alike|NaN"):
        delta_e(bad, PIXELS if len(bad) else bad)


class PaintNaN(PaintGrey):
    def forward(self, L):
        return super().forward(L) * torch.nan


def test_sets_that_cannot_be_measured_are_refused(photos):
    frequency = color_frequency(photos.train[:10])
    with pytest.raises(ValueError, match="no pictures"):
        measure(PaintGrey(), photos.test[:0], frequency)
    with pytest.raises(ValueError, match="none of these pictures has colour"):
        measure(PaintGrey(), photos.test[:5, :1].repeat(1, 3, 1, 1), frequency)
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure(PaintNaN(), photos.test[:5], frequency)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        measure(PaintGrey(), photos.test[:5, :, :4, :4], frequency)
    for count in (color_frequency, PaintMean):
        for none in (photos.train[:0], photos.train[..., :0]):
            with pytest.raises(ValueError, match="no pictures"):
                count(none)
