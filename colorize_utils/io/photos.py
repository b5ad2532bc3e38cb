"""Photo files on disk: find them, and read each as a square uint8 tensor. Lesson 01 uses it."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def find_photos(folder) -> list[Path]:
    """Every picture file below `folder`, by its suffix, in the order of its path; hidden ones are left out.

    Raises:
        FileNotFoundError: there is no such folder, or there is no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}: give the path of a folder of pictures")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise FileNotFoundError(
            f"no picture in {str(folder)!r}: it holds no file that ends in {', '.join(sorted(SUFFIXES))}"
        )
    return paths


def read_square(path, size: int) -> torch.Tensor:
    """The middle square of the picture at `path`, upright, as uint8 RGB (3, size, size).

    Raises:
        OSError: the file is empty, cut off, or no picture. ValueError: its pixels are floating-point.
    """
    with Image.open(path) as photo:
        photo.draft("RGB", (size, size))  # a JPEG decodes at 1/2, 1/4 or 1/8 size: much less work
        photo = ImageOps.exif_transpose(photo)
        if photo.mode == "F":
            raise ValueError("floating-point pixels have no fixed range: save the picture with 8 bits")
        if photo.mode.startswith("I"):  # 16-bit grey, which PIL's convert would clip to white
            photo = Image.fromarray((np.asarray(photo) // 257).clip(0, 255).astype(np.uint8))
        photo = ImageOps.fit(photo.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()


def read_squares(paths, size: int) -> tuple[torch.Tensor, list[int], list[str]]:
    """Read pictures on all cores; those that cannot be read are left out and told.

    Returns:
        uint8 RGB (N, 3, size, size), the index in `paths` of each of the N, and a line for each file left out.
    """

    def read(path):
        try:
            return read_square(path, size)
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ) as error:  # PIL's ways to say no
            return f"{path}: {str(error) or type(error).__name__}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and resizing leave Python's lock
        kept, problems = [], []
        images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
        for i, item in enumerate(tqdm(pool.map(read, paths), "reading", len(paths), leave=False)):
            if isinstance(item, str):
                problems.append(item)
            else:
                images[len(kept)] = item
                kept.append(i)
    return images[: len(kept)], kept, problems
