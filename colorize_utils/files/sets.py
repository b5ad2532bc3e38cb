"""The data sets behind `load_images`: CIFAR, Dogs vs. Cats, any folder or zip, as three uint8 tensors (N, 3, H, W)."""

import hashlib
from pathlib import Path

import torch

from colorize_utils.files import disk, downloads, pictures


def load(name, root, image_size: int, download: bool) -> list[torch.Tensor]:
    """The parts to train, validate and test: in memory for CIFAR, on the disk for photographs."""
    root = disk.place(root)
    if name in ("cifar10", "cifar100"):
        assert image_size == 32, f"{name} has pictures of 32 x 32 pixels: there is no {image_size=}"
        arrays = downloads.read_cifar(name, root, download)
        train, test = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in arrays)
        return [train[:-5000], train[-5000:], test]  # they are in random order already
    if name == "dogs-vs-cats":
        return folder(downloads.fetch_dogs_vs_cats(root / name, download), root, image_size)
    return folder(pictures.find(name, root), root, image_size)


def name_hash(name: str) -> int:
    """A number from 0 to 2^32 - 1 that looks random and depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:4], "big")


def part_of(name: str) -> int:
    """0 (train, 80 %), 1 (validation, 10 %) or 2 (test, 10 %): a new file moves no other."""
    return max(name_hash(name) % 10 - 7, 0)


def folder(source, root="data", image_size: int = 32) -> list[torch.Tensor]:
    """The middle squares of all pictures in a folder or a zip; prints which files were left out.

    They are prepared once, into `root/stores`, each part in the order of the hashes, and stay on the disk.
    """
    source = Path(source).absolute()
    address = f"{name_hash(str(source)):08x}"  # two folders may have the same name
    place = Path(root) / "stores" / f"{source.stem}_{address}_{image_size}px"
    store = pictures.prepare(source, image_size, place, lambda x: (part_of(x), name_hash(x), x))
    if store.skipped:
        print(store.report())
    parts = [part_of(name) for name in store.names]
    sizes = [parts.count(part) for part in range(3)]
    images = store.pictures.split(sizes)
    spans = [part[:100].amax(dim=1) - part[:100].amin(dim=1) for part in images]  # 0 where grey
    grey = [bool((span.float().mean(dim=(1, 2)) <= 2).all()) for span in spans]  # also without pictures
    assert not any(grey), f"{source} gives parts of {sizes} pictures, {grey=}: add some in colour"
    return list(images)
