import math

import numpy as np
import pytest
import skimage.color
import torch
import torchmetrics.functional.image as reference
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from colorize_utils import lab, measuring, metrics
from colorize_utils.data import Images, load_images
from colorize_utils.lab import from_network, rgb_to_lab, to_network
from colorize_utils.measuring import COLUMNS, evaluate, measure, score_table, with_error
from colorize_utils.similarity import delta_e, ssim
from colorize_utils.unet import UNet

# CIEDE2000 test data of Sharma, Wu and Dalal 2005, table 1: L1 a1 b1 L2 a2 b2 difference
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425                    50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412                    50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000                   50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669                                      50 -1 2 50 0 0 2.3669
50 2.4900 -0.0010 50 -2.4900 0.0009 7.1792                 50 2.4900 -0.0010 50 -2.4900 0.0010 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0011 7.2195                 50 2.4900 -0.0010 50 -2.4900 0.0012 7.2195
50 -0.0010 2.4900 50 0.0009 -2.4900 4.8045                 50 -0.0010 2.4900 50 0.0010 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0011 -2.4900 4.7461                 50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492                                 50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030                                 50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000                           50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000                           50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644   63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731       35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373   36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441       90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377       2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""
RGB, AB = torch.rand(2, 3, 16, 16), torch.rand(2, 2, 4, 4) - 0.5


@pytest.fixture(scope="module")
def photos() -> Images:
    return load_images("sample")


@pytest.fixture(scope="module")
def pair(photos):
    truth = photos.train[::125]  # twelve, predicted with noise, half of the colours, and none
    L, ab = to_network(truth)
    noise = torch.randn(ab.shape, generator=torch.Generator().manual_seed(0)) / 20
    return from_network(L, torch.cat([ab[:4] + noise[:4], 0.5 * ab[4:8], 0 * ab[8:]])), truth


def as_numpy(pictures):
    pictures = pictures.double() / 255 if pictures.dtype == torch.uint8 else pictures.double()
    return pictures.permute(0, 2, 3, 1).numpy()


def test_psnr_and_ssim_are_those_of_scikit_image_and_torchmetrics(pair):
    prediction, truth = pair
    both = list(zip(as_numpy(truth), as_numpy(prediction)))
    wang = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1)
    psnr, similarity = metrics.psnr(prediction, truth), ssim(prediction, truth)
    theirs = [peak_signal_noise_ratio(t, p, data_range=1) for t, p in both]
    assert psnr.numpy() == pytest.approx(np.array(theirs), rel=1e-4)
    theirs = [structural_similarity(t, p, data_range=1, **wang) for t, p in both]
    assert similarity.numpy() == pytest.approx(np.array(theirs), abs=1e-4)
    unit = dict(data_range=1.0, reduction="none")
    also = reference.peak_signal_noise_ratio(prediction, truth / 255, dim=(1, 2, 3), **unit)
    torch.testing.assert_close(psnr, also)
    unit["return_full_image"] = True
    _, also = reference.structural_similarity_index_measure(prediction, truth / 255, **unit)
    also = also[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))  # whole windows: theirs mirrors at the borders
    torch.testing.assert_close(similarity, also, rtol=0, atol=1e-4)


def test_delta_e_of_the_pairs_that_sharma_published():
    table = torch.tensor([float(x) for x in SHARMA.split()], dtype=torch.float64).view(34, 7)
    one, two = table[:, :3].view(34, 3, 1, 1), table[:, 3:6].view(34, 3, 1, 1)
    for a, b in ((one, two), (two, one)):
        assert (delta_e(a, b).flatten() - table[:, 6]).abs().max() < 1e-4


def test_delta_e_is_that_of_scikit_image_at_every_precision(pair):
    labs = (torch.from_numpy(skimage.color.rgb2lab(as_numpy(x))) for x in pair)
    lab1, lab2 = (lab.permute(0, 3, 1, 2) for lab in labs)
    theirs = skimage.color.deltaE_ciede2000(lab1.numpy(), lab2.numpy(), channel_axis=1)
    assert np.abs(delta_e(lab1, lab2).numpy() - theirs).max() < 1e-9
    single = delta_e(lab1.float(), lab2.float())
    assert single.dtype == torch.float32 and np.abs(single.numpy() - theirs).max() < 1e-2
    one, two = torch.tensor([[50.0, 40, 30], [55, 45, -30]]).view(2, 1, 3, 1, 1)
    expected = skimage.color.deltaE_ciede2000(one.numpy(), two.numpy(), channel_axis=1).item()
    assert delta_e(one.half(), two.half()).item() == pytest.approx(expected, abs=0.01)
    assert delta_e(one * 1e5, two * 1e5).isfinite().all()


def test_auc_and_balanced_auc_are_what_their_definitions_say(photos):
    truth, training = (to_network(pictures)[1] for pictures in (photos.test[:40], photos.train))
    truth[0, :, 0, 0] = -1  # a colour that isn't in training
    ab = truth + torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    answer, true, trained = (110 * as_numpy(x).reshape(-1, 2) for x in (ab, truth, training))
    distance = np.hypot(*(answer - true).T)
    plain = 100 * np.mean([(distance <= limit).mean() for limit in np.arange(0, 150, 0.05)])
    assert metrics.auc(ab, truth).mean().item() == pytest.approx(plain, abs=0.02)
    edges = np.arange(-115, 116, 10)
    counts, _, _ = np.histogram2d(*trained.T, bins=[edges, edges])
    share = gaussian_filter(counts / counts.sum(), 0.5, mode="constant")
    frequency = metrics.color_frequency(photos.train)
    np.testing.assert_allclose(frequency.numpy(), share.T, atol=1e-6)  # rows along b
    cell = np.rint(true / 10).astype(int) + 11
    weight = 1 / np.maximum(share[cell[:, 0], cell[:, 1]], 1e-6)
    balanced = 100 * (1 - np.average(np.minimum(distance, 150) / 150, weights=weight))
    assert metrics.balanced_auc(ab, truth, frequency).item() == pytest.approx(balanced, abs=1e-3)


def test_colorfulness_is_the_signed_formula(photos):
    for picture in photos.train[::300]:
        r, g, b = as_numpy(picture[None])[0].reshape(-1, 3).T * 255
        rg, yb = r - g, (r + g) / 2 - b
        expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
        assert metrics.colorfulness(picture[None]).item() == pytest.approx(expected, rel=1e-4)


def test_truth_and_prediction_are_converted_to_lab_once_a_batch(photos, monkeypatch):
    frequency, kinds = metrics.color_frequency(photos.train[:64]), []
    for module in (lab, measuring):  # to_network calls the one in lab
        counted = lambda rgb: kinds.append(rgb.dtype) or rgb_to_lab(rgb)  # noqa: E731
        monkeypatch.setattr(module, "rgb_to_lab", counted)
    measure(metrics.PaintColor(), photos.test[:30], frequency, batch_size=10)
    assert (kinds.count(torch.uint8), kinds.count(torch.float32), len(kinds)) == (3, 3, 6)


def test_measure_does_not_depend_on_the_batches_and_means_what_it_says(photos):
    torch.manual_seed(0)
    model, pictures = UNet(base_width=2).eval(), photos.test[:50].clone()
    pictures[:8] = pictures[:8, :1]  # exactly grey: in batches of 7 a whole batch
    frequency = metrics.color_frequency(photos.train)
    once = measure(model, pictures, frequency, batch_size=50)
    in_parts = measure(model, pictures, frequency, batch_size=7)
    assert in_parts == pytest.approx(once, rel=1e-5)
    L, truth = to_network(pictures)
    with torch.no_grad():
        ab = model(L)
    rgb = from_network(L, ab)
    expected = {
        "psnr": metrics.psnr(rgb, pictures)[8:].mean(),  # grey ones left out
        "ssim": ssim(rgb, pictures).mean(),
        "delta_e": delta_e(rgb_to_lab(rgb), rgb_to_lab(pictures)).mean(),
        "auc": metrics.auc(ab, truth).mean(),  # before clipping
        "balanced_auc": metrics.balanced_auc(ab, truth, frequency),
        "colorfulness": metrics.colorfulness(rgb).mean(),
        "true_colorfulness": metrics.colorfulness(pictures).mean(),
    }
    expected["share"] = expected["colorfulness"] / expected["true_colorfulness"]
    expected = {key: value.item() for key, value in expected.items()}
    assert once == pytest.approx(expected, rel=1e-5)


def test_measure_puts_every_module_back_into_its_own_mode(photos):
    for mode in (True, False):
        model = UNet(base_width=2).train(mode)
        model.down[1][1][1].train(not mode)  # a BatchNorm that its owner froze; a part in training
        modes = [module.training for module in model.modules()]
        measure(model, photos.test[:5], torch.ones(23, 23))
        assert [module.training for module in model.modules()] == modes


def test_baselines_stand_beside_every_figure(photos):
    few = Images(photos.train[:100], photos.validation[:20], photos.test[:20])
    found = evaluate(model := UNet(base_width=2), few, "validation")
    mean, frequency = metrics.PaintMean(few.train), metrics.color_frequency(few.train)
    painted = mean(torch.zeros(2, 1, 5, 7))
    assert painted.shape == (2, 2, 5, 7)
    torch.testing.assert_close(painted[1, :, 4, 6], to_network(few.train)[1].mean(dim=(0, 2, 3)))
    for name, painter in zip(found, (metrics.PaintColor(), mean, model)):
        assert found[name] == measure(painter, few.validation, frequency)
    assert found["grey"]["colorfulness"] < 0.01 < found["mean colour"]["colorfulness"]
    table = score_table(found, "validation").splitlines()
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    assert f"{found['grey']['psnr']:.2f}" in table[1]
    assert f"{found['U-Net']['balanced_auc']:.2f}" in table[3]


def test_a_table_of_several_seeds_shows_their_mean_and_its_standard_error():
    assert with_error([2.0], 2) == "2.00" and with_error([1.0, 2.0, 3.0], 2) == "2.00 ± 0.58"
    one, two = dict.fromkeys(COLUMNS, 1.0), dict.fromkeys(COLUMNS, 2.0)
    table = score_table({"grey": one, "U-Net": [one, two]}, "set").splitlines()
    assert len({len(line) for line in table}) == 1 and table[0].split()[:2] == ["set", "PSNR"]
    assert table[1].split()[1:3] == ["1.00", "1.0000"] and table[1].endswith(" 100")  # per cent
    assert "  1.50 ± 0.50  1.5000 ± 0.5000  " in table[2] and table[2].endswith("  150 ± 50")


def test_equal_flat_and_tiny_pictures_give_numbers_not_nan(photos):
    rgb, ab = photos.test[:3], to_network(photos.test[:3])[1]
    assert torch.isinf(metrics.psnr(rgb, rgb)).all() and ssim(rgb, rgb).min() > 0.9999
    assert delta_e(100 * RGB, 100 * RGB).max() == 0 and metrics.auc(ab, ab).min() == 100
    flat = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    for metric in (metrics.psnr, ssim):
        assert metric(flat, 0 * flat + 0.25).isfinite().all()
    assert metrics.colorfulness(flat).max() == 0
    grey, red = torch.tensor([[50.0, 0, 0], [1, 0, 0]]).view(2, 1, 3, 1, 1)  # one pixel each
    assert delta_e(grey, 1.2 * grey).item() == pytest.approx(9.47, abs=0.01)
    assert metrics.psnr(0 * red, 0 * red + 0.1).item() == pytest.approx(20, abs=1e-4)
    assert metrics.colorfulness(red).item() == pytest.approx(0.3 * math.hypot(255, 127.5), rel=1e-5)


@pytest.mark.parametrize("metric, inputs, message", [
    (metrics.psnr, (RGB, RGB[:1]), "large as itself"),
    (delta_e, (RGB, RGB[:1]), "large as itself"),
    (ssim, (RGB, RGB[:1]), "two alike"),
    (ssim, (RGB[..., :10], RGB[..., :10]), "at least 11 x 11 pixels"),
    (metrics.psnr, (RGB * 255, RGB * 255), "lie in 0..1"),
    (metrics.psnr, (RGB, RGB * torch.nan), "lie in 0..1"),
    (metrics.auc, (AB, AB[:1]), "divided by 110"),
    (metrics.auc, (AB * 110, AB * 110), "divided by 110"),
    (metrics.balanced_auc, (AB, AB, torch.ones(40, 40)), "another grid"),
])  # fmt: skip
def test_what_would_go_on_silently_is_refused(metric, inputs, message):
    with pytest.raises(AssertionError, match=message):
        metric(*inputs)
