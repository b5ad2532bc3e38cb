"""Batches of normalised L and ab at CIFAR's size, shuffled: picked from memory and converted together, beside the
usual way, a Dataset of PIL pictures converted one by one in a DataLoader with two workers."""

from _ratio import measure
from _usual import usual

from colorize_utils.data import load_images
from colorize_utils.lab import to_network
from colorize_utils.training import batches

BATCH = 64

if __name__ == "__main__":
    pictures = load_images("sample").train.repeat(14, 1, 1, 1)  # 21,000 of 32 x 32 pixels
    arrays = pictures.permute(0, 2, 3, 1).contiguous().numpy()

    def from_memory():
        for index in batches(len(pictures), BATCH, shuffle=True):
            to_network(pictures[index])

    measure("delivery", 5, ours=from_memory, theirs=usual(arrays, 32, BATCH))
