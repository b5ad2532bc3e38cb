"""Pictures in a folder or a zip, and the store that keeps them prepared on the disk."""

import errno
import hashlib
import io
import json
import mmap
import os
import re
import shutil
import stat
import sys
import time
import warnings
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

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


EVERY = 3  # seconds between two notes of how far the preparation is
PRIVATE = {"access": mmap.ACCESS_COPY}  # what a student writes into a picture stays in memory
if sys.platform == "linux":  # and need not be kept free: Python names this flag from 3.13 on
    PRIVATE = {"flags": mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)}


class Store(NamedTuple):
    """Prepared pictures, uint8 RGB (N, 3, S, S), on the disk; their N names; name and reason of those left out."""

    pictures: torch.Tensor
    names: list[str]
    skipped: dict[str, str]
    folder: Path

    def report(self, most: int = 5) -> str:
        """How many pictures were found, used and left out, and the first reasons, in words."""
        found = len(self.names) + len(self.skipped)
        lines = [f"found {found:,} pictures, used {len(self.names):,}, left out {len(self.skipped):,}"]
        lines += [f"  {printable(f'{name}: {why}')}" for name, why in list(self.skipped.items())[:most]]
        if len(self.skipped) > most:
            lines.append(f"  ... all of them are listed in {self.folder / 'index.json'}")
        return "\n".join(lines)


def printable(text: str) -> str:
    """Text that this terminal can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def prepare(source, image_size: int, folder, order=None, unwanted=None) -> Store:
    """Decode every picture of `source` once, on all cores, into a store at `folder`; open it if it is there already.

    A preparation that was killed goes on where it stopped. Of two at once, one waits for the other. A store of
    another size or of files that have changed since is made anew.

    Args:
        source: a folder or a zip, see `open_source`.
        image_size: side of the squares in pixels.
        order: a key to sort the names by; the rows of the store have this order.
        unwanted: a reason and a function like `is_grey`, uint8 (1, 3, S, S) -> bool; pictures for which it is true
            are left out for that reason.

    Raises:
        FileNotFoundError, ValueError: as for `open_source`. OSError: the disk is full, or pictures cannot be reached;
            what is done is kept.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is preparing {folder.name}: waiting for it")
        lock.acquire()
    try:
        source = open_source(source)
        names = sorted(source.files, key=order)
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name}\0{source.files[name]}\0".encode(errors="surrogatepass"))
        left_out = unwanted[0] if unwanted else None
        made_of = {"files": digest.hexdigest(), "image_size": image_size, "left out": left_out}
        store = opened(folder, names, made_of)
        if store is None:
            if folder.exists():
                print(
                    f"{source.path.name} has changed since, or its store is damaged: preparing it again"
                )
            build(source, names, made_of, folder, unwanted)
            store = opened(folder, names, made_of)
    finally:
        lock.release()
    return store


def opened(folder: Path, names: list[str], made_of: dict) -> Store | None:
    """The store at `folder`, or None if it is absent, damaged, or not made of this."""
    index, file = read_json(folder / "index.json"), folder / "pictures.npy"
    if index.get("made of") != made_of or not file.is_file():
        return None
    skipped = index["skipped"]
    kept, size = [name for name in names if name not in skipped], made_of["image_size"]
    if file.stat().st_size != len(header(0, size)) + len(kept) * 3 * size * size:
        return None
    return Store(open_pictures(file), kept, skipped, folder)


def reason(error: Exception) -> str:
    """Why a file was left out, without the file's name."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or an empty file"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_json(path: Path) -> dict:
    """The file's content, or {} if there is none, or it is damaged."""
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}


def write_json(path: Path, content: dict) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def open_pictures(path: Path) -> torch.Tensor:
    """A .npy of bytes as a tensor that stays on the disk: only what is looked at is read."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        if not shape[0]:
            return torch.empty(shape, dtype=torch.uint8)
        memory = mmap.mmap(file.fileno(), 0, **PRIVATE)
    return torch.frombuffer(memory, dtype=torch.uint8, offset=start).reshape(shape)


def header(count: int, size: int) -> bytes:
    """A .npy's header; numpy leaves room for any count, so its length is constant."""
    shape = (count, 3, size, size)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def read(source, name: str, size: int, unwanted) -> bytes | str:
    """The picture's bytes, or why there are none. Pillow has almost any exception for a broken file.

    Raises:
        MemoryError, OSError: the fault is not the picture's: no memory, a disk or network that fails.
    """
    try:
        with source.open(name) as file:
            square = read_square(file, size)
    except Exception as error:
        passing = isinstance(error, OSError) and error.errno not in (None, errno.EACCES, errno.EPERM)
        if passing or isinstance(error, MemoryError):
            raise
        return reason(error)
    if unwanted and bool(unwanted[1](torch.from_numpy(square.copy())[None])):
        return unwanted[0]
    return square.tobytes()


def build(source, names: list[str], made_of: dict, folder: Path, unwanted) -> None:
    """Prepare into FOLDER.partial, noting every so often how far it is; rename that when all is done."""
    partial, size = folder.with_name(f"{folder.name}.partial"), made_of["image_size"]
    pictures, progress = partial / "pictures.npy", partial / "progress.json"
    start, picture_bytes = len(header(0, size)), 3 * size * size
    at = read_json(progress)
    if at.get("made of") != made_of or pictures.stat().st_size < start + at["rows"] * picture_bytes:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        pictures.write_bytes(header(0, size))
        at = {"made of": made_of, "done": 0, "rows": 0, "skipped": {}}
    elif at["done"]:
        print(f"going on after {at['done']:,} of {len(names):,} pictures")
    needed = (len(names) - at["done"]) * picture_bytes
    if needed > shutil.disk_usage(partial).free:
        raise OSError(
            errno.ENOSPC,
            f"the store needs {needed / 1e9:.1f} GB more at {partial}: make room, or lower IMAGE_SIZE",
        )
    try:
        with pictures.open("r+b") as file:
            file.truncate(start + at["rows"] * picture_bytes)
            file.seek(0, os.SEEK_END)
            append(file, source, names, at, unwanted, progress)
            file.seek(0)
            file.write(header(at["rows"], size))
            file.flush()
            os.fsync(file.fileno())
        write_json(partial / "index.json", {"made of": made_of, "skipped": at["skipped"]})
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise OSError(
            error.errno,
            f"{error}. {'Make room' if full else 'Mend that'} and run again: it goes on from picture "
            f"{read_json(progress).get('done', 0):,} of {len(names):,} in {partial}",
        ) from error
    put_in_place(partial, folder)


def append(file, source, names: list[str], at: dict, unwanted, progress: Path) -> None:
    """Write the pictures from `at["done"]` on to the file, decoding on all cores, and keep `at` up to date."""
    size = at["made of"]["image_size"]
    ahead = min(256, 2 + 16 * 2**20 // (3 * size * size))  # pictures that wait in memory, about 16 MB

    def note():
        file.flush()
        os.fsync(file.fileno())
        write_json(progress, at)
        return time.monotonic()

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,  # decoding and resizing leave Python's lock
        tqdm(initial=at["done"], total=len(names), desc="preparing", unit="picture", leave=False) as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        waiting, todo, noted = deque(), iter(names[at["done"] :]), time.monotonic()
        try:
            while True:
                while len(waiting) < ahead and (name := next(todo, None)) is not None:
                    waiting.append((name, pool.submit(read, source, name, size, unwanted)))
                if not waiting:
                    break
                name, future = waiting.popleft()
                result = future.result()
                if isinstance(result, str):
                    at["skipped"][name] = result
                else:
                    file.write(result)
                    at["rows"] += 1
                at["done"] += 1
                bar.update()
                if time.monotonic() - noted >= EVERY:
                    noted = note()
            note()
        finally:
            pool.shutdown(cancel_futures=True)


def put_in_place(partial: Path, folder: Path) -> None:
    """Rename the finished store, after moving aside the one that it replaces."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if folder.exists():
            os.replace(folder, old)
    except PermissionError as error:  # Windows, while a process still looks at the old pictures
        raise PermissionError(
            f"{folder} is in use: restart the kernels that use it and run again"
        ) from error
    os.replace(partial, folder)
    (folder / "progress.json").unlink()
    shutil.rmtree(old, ignore_errors=True)
