"""The usual way, beside which batches of L and ab are measured: a Dataset that converts one by one, two workers."""

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch.utils.data import DataLoader, Dataset


class OneByOne(Dataset):
    def __init__(self, pictures, size: int):
        self.pictures, self.size = pictures, (size, size)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        picture = self.pictures[i]  # an array, as in torchvision's CIFAR, or the path of a JPEG
        photo = Image.fromarray(picture) if isinstance(picture, np.ndarray) else Image.open(picture)
        if photo.size != self.size:
            photo = photo.convert("RGB").resize(self.size, Image.Resampling.BICUBIC)
        lab = torch.from_numpy(rgb2lab(np.array(photo)).astype(np.float32)).permute(2, 0, 1)
        return lab[:1] / 50 - 1, lab[1:] / 110


def usual(pictures, size: int, batch_size: int):
    """A function that delivers all batches once, shuffled."""
    loader = DataLoader(OneByOne(pictures, size), batch_size, shuffle=True, num_workers=2)

    def deliver():
        for _ in loader:
            pass

    return deliver
