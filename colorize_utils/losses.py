import torch
import torch.nn.functional as F
from torch import nn

from .lab import to_network
from .metrics import ab_cells


def gamut_cells() -> torch.Tensor:
    """The cells of 10 x 10 units of ab that hold a colour of sRGB: bool (23, 23), rows along b, columns along a."""
    levels = torch.arange(0, 256, 3, dtype=torch.uint8)  # every third of R, G and B, 0 and 255 among them
    colors = torch.cartesian_prod(levels, levels, levels)  # (636056, 3)
    cells = ab_cells(to_network(colors.T[None, :, :, None])[1])
    return torch.bincount(cells.flatten(), minlength=23 * 23).view(23, 23) > 0


def rarity_weights(frequency: torch.Tensor, power: float = 1.0, uniform: float = 0.5) -> torch.Tensor:
    """How much a pixel counts, by its true colour: ((1 - uniform) p + uniform / Q) ** -power, scaled."""
    mixed = (1 - uniform) * frequency + uniform / gamut_cells().sum()
    weights = mixed**-power
    return weights / (frequency * weights).sum()


class WeightedMSE(nn.Module):
    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.register_buffer("weights", weights.float())

    def forward(self, output: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
        weight = self.weights.flatten()[ab_cells(ab)]  # (B, H, W)
        return (weight * ((output - ab) ** 2).mean(dim=1)).mean()

    def extra_repr(self):
        return f"weights {self.weights.min():.4g} to {self.weights.max():.4g}"


def soft_encode(ab: torch.Tensor, classes: torch.Tensor):
    position = 11 * ab[:, None]  # (B, 1, 2, H, W), in cells
    around = torch.cartesian_prod(*[torch.arange(-1, 2, device=ab.device)] * 2).view(1, 9, 2, 1, 1)
    centers = (position.round() + around).clamp(-11, 11)
    share = torch.exp(-((position - centers) ** 2).sum(dim=2) / (2 * 0.5**2))  # (B, 9, H, W)
    a, b = centers.long().unbind(dim=2)
    index = classes[(b + 11) * 23 + (a + 11)]
    share = share * (index >= 0)
    return index.clamp(min=0), share / share.sum(dim=1, keepdim=True)


class ClassCrossEntropy(nn.Module):
    def __init__(self, weights: torch.Tensor | None = None):
        super().__init__()
        gamut = gamut_cells().flatten()
        self.register_buffer("classes", torch.where(gamut, gamut.cumsum(0) - 1, -1))
        self.register_buffer("weights", torch.ones(23, 23) if weights is None else weights.float())

    def forward(self, output: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
        index, share = soft_encode(ab, self.classes)
        error = -(share * output.log_softmax(dim=1).gather(1, index)).sum(dim=1)  # (B, H, W)
        return (self.weights.flatten()[ab_cells(ab)] * error).mean()

    def extra_repr(self):
        return f"weights {self.weights.min():.4g} to {self.weights.max():.4g}"


class AnnealedMean(nn.Module):
    def __init__(self, temperature: float = 0.38):
        super().__init__()
        b, a = gamut_cells().nonzero().T  # in the order of the classes
        self.register_buffer("centers", (torch.stack([a, b], dim=1) - 11) / 11)  # (Q, 2), ab/110
        self.temperature = temperature

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        share = F.softmax(logits.float() / self.temperature, dim=1)  # (B, Q, H, W)
        return F.conv2d(share, self.centers.T[:, :, None, None])  # the mean of the centers
