"""Batches of normalised L and ab at CIFAR's size, shuffled: picked from memory and converted together, beside the
usual way, a Dataset of PIL pictures converted one by one in a DataLoader with two workers."""

import numpy as np
import torch
from _ratio import measure
from PIL import Image
from skimage.color import rgb2lab
from torch.utils.data import DataLoader, Dataset

from colorize_utils.data import load_images
from colorize_utils.lab import to_network
from colorize_utils.training import batches

BATCH = 64


class OneByOne(Dataset):
    """Like torchvision's CIFAR: an array of pictures, each made a PIL picture when it is asked for."""

    def __init__(self, pictures):
        self.arrays = pictures.permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, i):
        lab = rgb2lab(np.array(Image.fromarray(self.arrays[i]))).astype(np.float32)
        lab = torch.from_numpy(lab).permute(2, 0, 1)
        return lab[:1] / 50 - 1, lab[1:] / 110


if __name__ == "__main__":
    pictures = load_images("sample").train.repeat(14, 1, 1, 1)  # 21,000 of 32 x 32 pixels
    loader = DataLoader(OneByOne(pictures), batch_size=BATCH, shuffle=True, num_workers=2)

    def from_memory():
        for index in batches(len(pictures), BATCH, torch.Generator().manual_seed(0)):
            to_network(pictures[index])

    def usual():
        for _ in loader:
            pass

    measure("delivery", 5, ours=from_memory, theirs=usual)
