"""Pictures in a folder or a zip: find them, and read each as a square. Lesson 01 uses it through io/store.py."""

import io
import os
import re
import stat
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MOST_BYTES = 256 * 2**20  # of one unpacked picture; no photograph comes near it
MOST_EXPANSION = 200  # pictures hardly shrink in a zip; a bomb shrinks over a thousandfold


def is_candidate(name: str) -> bool:
    """Whether a relative path, with slashes, looks like a picture that is meant to be seen."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return os.path.splitext(parts[-1])[1].lower() in SUFFIXES and not hidden


def raise_it(error: OSError) -> None:
    raise OSError(
        error.errno, f"{error.strerror}: make the folder readable, or take it away", error.filename
    )


class Folder:
    """The pictures below a folder. `files` maps each name, with slashes, to what tells that it has changed.

    Raises:
        OSError: a folder cannot be listed.
    """

    def __init__(self, path):
        self.path, self.files, seen = Path(path), {}, set()
        for place, folders, names in os.walk(self.path, onerror=raise_it, followlinks=True):
            here = os.stat(place)
            if (here.st_dev, here.st_ino) in seen:  # a link back to where we have been
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            folders.sort()
            inside = Path(place).relative_to(self.path).as_posix()
            for name in names:
                relative = name if inside == "." else f"{inside}/{name}"
                if is_candidate(relative):
                    file = os.path.join(place, name)
                    found = os.stat(file) if os.path.exists(file) else os.lstat(file)
                    self.files[relative] = f"{found.st_size} {found.st_mtime_ns} {found.st_mode}"

    def open(self, name: str):
        """The file, to read bytes from."""
        path = os.path.join(self.path, name)
        if os.path.islink(path) and not os.path.exists(path):
            raise OSError("a link that leads nowhere")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("not a regular file")
        return open(path, "rb")


class Zip:
    """The pictures in a zip, read where they are. `files` maps each name to its size and checksum.

    Raises:
        ValueError: it is no zip, or it is made to do harm: paths that leave it, links, absurd expansion.
    """

    def __init__(self, path):
        self.path, self.files = Path(path), {}
        try:
            self.zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no zip, or not all of it ({error}): fetch it again") from error
        members = self.zip.infolist()
        for member in members:
            name = member.filename
            if re.match(r"/|[A-Za-z]:", name) or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{path} is refused: {name!r} leads out of it")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"{path} is refused: {name!r} is a link")
            if not member.is_dir() and is_candidate(name):
                self.files[name] = f"{member.file_size} {member.CRC}"
        unpacked = sum(member.file_size for member in members)
        if unpacked > MOST_EXPANSION * max(self.path.stat().st_size, 2**20):
            raise ValueError(f"{path} is refused: it would unpack to {unpacked / 1e9:.1f} GB")

    def open(self, name: str):
        """The unpacked file; several threads may read at once."""
        if self.zip.getinfo(name).file_size > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES >> 20} MB")
        return io.BytesIO(self.zip.read(name))


def open_source(path) -> Folder | Zip:
    """The pictures at `path`: a folder with pictures anywhere below it, a zip, or a folder with one zip.

    Raises:
        FileNotFoundError: there is no picture.
        ValueError: a zip is damaged or refused.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no folder and no zip {str(path)!r}: give the path of your pictures")
    source = Folder(path) if path.is_dir() else Zip(path)
    zips = sorted(path.glob("*.zip")) if path.is_dir() and not source.files else []
    if len(zips) > 1:
        raise FileNotFoundError(
            f"{str(path)!r} holds {len(zips)} zips and no picture: give the path of one of them"
        )
    if zips:
        source = Zip(zips[0])
    if not source.files:
        raise FileNotFoundError(
            f"no picture in {str(source.path)!r}: it holds no file that ends in {', '.join(sorted(SUFFIXES))}"
            " (a zip within a zip has to be unpacked first)"
        )
    return source


def read_square(file, size: int) -> np.ndarray:
    """The middle square of a picture, upright, as uint8 RGB (3, size, size); what is transparent becomes white.

    Args:
        file: a path, or a file opened for reading bytes.

    Raises:
        Exception: whatever Pillow says of a file that is empty, cut off, too large, or no picture.
    """
    with Image.open(file) as photo:
        photo.draft("RGB", (size, size))  # a JPEG decodes at 1/2, 1/4 or 1/8 size: much less work
        photo = ImageOps.exif_transpose(photo)
        if photo.mode == "F":
            raise ValueError("floating-point pixels have no fixed range: save the picture with 8 bits")
        if photo.mode.startswith("I"):  # 16-bit grey, which PIL's convert would clip to white
            values = np.asarray(photo)
            values = values // 257 if values.max() > 255 else values
            photo = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        if photo.has_transparency_data:
            photo = photo.convert("RGBA")
            photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
        photo = ImageOps.fit(photo.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        return np.asarray(photo).transpose(2, 0, 1)
