"""Photographs at 128 pixels: preparing them, beside the bare decoder and resizer; delivering normalised L and ab from
the store, beside the usual way, a Dataset that opens, resizes and converts one by one in a DataLoader with two workers;
and `fit`'s loop on the store, beside the same net on one batch that is already there."""

import itertools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _ratio import measure
from PIL import Image, ImageOps
from skimage.color import rgb2lab
from torch.utils.data import DataLoader, Dataset

from colorize_utils.data import SEEN, UNSEEN, photograph
from colorize_utils.files.pictures import prepare
from colorize_utils.lab import to_network
from colorize_utils.training import batches, train_epoch
from colorize_utils.unet import UNet

SIZE, BATCH, COUNT, STEPS = 128, 16, 1600, 10


def write_jpegs(folder: Path) -> list[Path]:
    """COUNT pieces of scikit-image's photographs, as large as those of Dogs vs. Cats, up to 500 pixels."""
    generator, photos = np.random.default_rng(0), [photograph(name) for name in SEEN + UNSEEN]
    for i in range(COUNT):
        photo = photos[i % len(photos)].permute(1, 2, 0).numpy()
        height, width = (min(generator.integers(250, 500), length) for length in photo.shape[:2])
        top, left = (
            generator.integers(0, length - side + 1)
            for length, side in zip(photo.shape, (height, width))
        )
        piece = Image.fromarray(photo[top : top + height, left : left + width])
        piece.save(folder / f"{i}.jpg", quality=90)
    return sorted(folder.iterdir())


class OneByOne(Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        photo = Image.open(self.paths[i]).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        lab = torch.from_numpy(rgb2lab(np.array(photo)).astype(np.float32)).permute(2, 0, 1)
        return lab[:1] / 50 - 1, lab[1:] / 110


def bare(path) -> None:
    with Image.open(path) as photo:
        photo.draft("RGB", (SIZE, SIZE))
        ImageOps.fit(photo.convert("RGB"), (SIZE, SIZE), Image.Resampling.BICUBIC)


def main(folder: Path) -> None:
    jpegs = folder / "jpegs"
    jpegs.mkdir()
    paths = write_jpegs(jpegs)

    places = (
        folder / f"store_{i}" for i in itertools.count()
    )  # a new one each time, or it would be there

    def prepared():
        return prepare(jpegs, SIZE, next(places))

    def decoder():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(bare, paths))

    measure("preparation", 0.8, ours=prepared, theirs=decoder)

    pictures = prepared().pictures
    loader = DataLoader(OneByOne(paths), batch_size=BATCH, shuffle=True, num_workers=2)

    def usual():
        for _ in loader:
            pass

    def streamed(convert):
        def all_batches():
            for index in batches(len(pictures), BATCH, torch.Generator().manual_seed(0)):
                convert(pictures[index])

        return all_batches

    measure("streaming", 3, ours=streamed(to_network), theirs=usual)
    measure("streaming_compiled", 6, ours=streamed(torch.compile(to_network)), theirs=usual)

    torch.manual_seed(0)
    model = UNet(base_width=16)
    optimizer = torch.optim.Adam(model.parameters())
    few = pictures[: STEPS * BATCH]
    L, ab = to_network(few[:BATCH])

    def loop():
        train_epoch(model, few, optimizer, F.mse_loss, BATCH, torch.Generator().manual_seed(0))

    def steps():
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.mse_loss(model(L), ab).backward()
            optimizer.step()

    measure("streaming_loop", 0.97, ours=loop, theirs=steps, rounds=9)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
