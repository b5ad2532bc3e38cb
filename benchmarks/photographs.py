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
from _ratio import measure
from _usual import usual
from PIL import Image, ImageOps
from training_loop import measure_loop

from colorize_utils.data import SEEN, UNSEEN, photograph
from colorize_utils.files.pictures import prepare
from colorize_utils.lab import to_network
from colorize_utils.training import batches

SIZE, BATCH, COUNT, STEPS = 128, 16, 1600, 10


def write_jpegs(folder: Path) -> list[Path]:
    """COUNT pieces of scikit-image's photographs, as large as those of Dogs vs. Cats, up to 500 pixels."""
    generator, photos = np.random.default_rng(0), [photograph(name) for name in SEEN + UNSEEN]
    for i in range(COUNT):
        photo = photos[i % len(photos)].permute(1, 2, 0).numpy()
        height, width = (min(generator.integers(250, 500), length) for length in photo.shape[:2])
        top, left = (
            generator.integers(0, n - side + 1) for n, side in zip(photo.shape, (height, width))
        )
        piece = Image.fromarray(photo[top : top + height, left : left + width])
        piece.save(folder / f"{i}.jpg", quality=90)
    return sorted(folder.iterdir())


def bare(path) -> None:
    with Image.open(path) as photo:
        photo.draft("RGB", (SIZE, SIZE))
        ImageOps.fit(photo.convert("RGB"), (SIZE, SIZE), Image.Resampling.BICUBIC)


def main(folder: Path) -> None:
    jpegs = folder / "jpegs"
    jpegs.mkdir()
    paths = write_jpegs(jpegs)
    stores = (folder / f"store_{i}" for i in itertools.count())  # a new one each time

    def prepared():
        return prepare(jpegs, SIZE, next(stores))

    def decoder():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(bare, paths))

    measure("preparation", 0.8, ours=prepared, theirs=decoder)
    pictures = prepared().pictures

    def streamed(convert):
        for index in batches(len(pictures), BATCH, shuffle=True):
            convert(pictures[index])

    theirs, compiled = usual(paths, SIZE, BATCH), torch.compile(to_network)
    measure("streaming", 3, ours=lambda: streamed(to_network), theirs=theirs)
    measure("streaming_compiled", 6, ours=lambda: streamed(compiled), theirs=theirs)
    measure_loop("streaming_loop", 0.97, pictures[: STEPS * BATCH], BATCH)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
