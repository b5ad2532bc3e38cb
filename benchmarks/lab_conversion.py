"""RGB to Lab, as the course does it (batches of 64 pictures of CIFAR's size, eager PyTorch), beside scikit-image called
once per picture, as most tutorials do."""

from _ratio import measure
from skimage.color import rgb2lab

from colorize_utils.data import load_images
from colorize_utils.lab import rgb_to_lab

if __name__ == "__main__":
    pictures = load_images("sample").train.repeat(4, 1, 1, 1)  # 6,000 of 32 x 32 pixels
    arrays = [picture.permute(1, 2, 0).numpy() for picture in pictures]

    def batched():
        for batch in pictures.split(64):
            rgb_to_lab(batch)

    def one_by_one():
        for array in arrays:
            rgb2lab(array)

    measure("lab_conversion", 3, ours=batched, theirs=one_by_one)
