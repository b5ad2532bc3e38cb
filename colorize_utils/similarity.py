"""Two measures of likeness by the book: SSIM and the colour difference CIEDE2000. Written by hand; lesson 6 uses them."""

import math

import torch


def as_float(rgb: torch.Tensor) -> torch.Tensor:
    """RGB (B, 3, H, W), uint8 in 0..255 or float in 0..1, as float32 in 0..1."""
    if rgb.dtype == torch.uint8:
        return rgb.float() / 255
    assert -1e-4 <= rgb.min() and rgb.max() <= 1 + 1e-4, "float RGB must lie in 0..1: divide by 255"
    return rgb.float()


def ssim(prediction: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each picture, mean of R, G, B (Wang et al. 2004): (B,), 1 if equal.

    Both are RGB (B, 3, H, W), uint8 or float in 0..1.
    """
    fits = prediction.shape == truth.shape and min(truth.shape[2:]) >= 11
    assert fits, "SSIM compares two alike, of at least 11 x 11 pixels"
    window = [math.exp(-(x**2) / (2 * 1.5**2)) for x in range(-5, 6)]
    window = [weight / sum(window) for weight in window]
    height, width = truth.shape[2] - 10, truth.shape[3] - 10

    def blur(pictures):  # the window's weighted mean around each pixel that has a whole window
        rows = sum(w * pictures[:, :, k : k + height] for k, w in enumerate(window))
        return sum(w * rows[:, :, :, k : k + width] for k, w in enumerate(window))

    p, t = as_float(prediction), as_float(truth)
    mean_p, mean_t = blur(p), blur(t)
    variance_p, variance_t = blur(p**2) - mean_p**2, blur(t**2) - mean_t**2
    covariance = blur(p * t) - mean_p * mean_t
    similarity = (2 * mean_p * mean_t + 0.01**2) * (2 * covariance + 0.03**2)
    similarity /= (mean_p**2 + mean_t**2 + 0.01**2) * (variance_p + variance_t + 0.03**2)
    return similarity.mean(dim=(1, 2, 3))


def delta_e(lab1: torch.Tensor, lab2: torch.Tensor) -> torch.Tensor:
    """CIEDE2000 difference of each pixel (Sharma et al. 2005): Lab (B, 3, H, W) -> (B, H, W)."""
    assert lab1.shape == lab2.shape, "each picture needs one to compare with, as large as itself"
    dtype = torch.promote_types(lab1.dtype, torch.float32)
    (L1, a1, b1), (L2, a2, b2) = (lab.to(dtype).unbind(dim=1) for lab in (lab1, lab2))

    def vivid(C):  # sqrt(C^7 / (C^7 + 25^7)): 0 at grey, nearly 1 from a chroma of 50 on
        return 1 / (1 + (25 / C) ** 7).sqrt()

    stretch = 1.5 - 0.5 * vivid((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)  # more a near grey
    C1, C2 = torch.hypot(stretch * a1, b1), torch.hypot(stretch * a2, b2)
    h1, h2 = (torch.atan2(b, stretch * a) % (2 * math.pi) for a, b in ((a1, b1), (a2, b2)))

    turn = h2 - h1  # the short way round the circle of hues
    turn = turn - 2 * math.pi * ((turn > math.pi).to(turn) - (turn < -math.pi).to(turn))
    L, C, h = (L1 + L2) / 2, (C1 + C2) / 2, (h1 + turn / 2) % (2 * math.pi)
    degree = math.pi / 180
    T = 1 - 0.17 * torch.cos(h - 30 * degree) + 0.24 * torch.cos(2 * h)
    T = T + 0.32 * torch.cos(3 * h + 6 * degree) - 0.20 * torch.cos(4 * h - 63 * degree)
    dL = (L2 - L1) / (1 + 0.015 * (L - 50) ** 2 / (20 + (L - 50) ** 2).sqrt())
    dC = (C2 - C1) / (1 + 0.045 * C)  # strong colours: less
    dH = 2 * (C1 * C2).sqrt() * torch.sin(turn / 2) / (1 + 0.015 * C * T)
    blue = torch.sin(60 * degree * torch.exp(-(((h / degree - 275) / 25) ** 2)))
    rotation = -2 * blue * vivid(C)
    return (dL**2 + dC**2 + dH**2 + rotation * dC * dH).clamp(min=0).sqrt()
