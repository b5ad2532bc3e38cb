"""Pictures prepared once and read from the disk ever after, so that memory does not grow with their number.

A store is a folder with `pictures.npy`, uint8 RGB (N, 3, S, S), which np.load opens as well, and `index.json`, which
says what it was made of and which files were left out and why.
"""

import hashlib
import json
import mmap
import os
import shutil
import sys
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout  # torch needs it too, so it is there
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from colorize_utils.io.photos import open_source, read_square

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
        lines += [f"  {printable(name)}: {why}" for name, why in list(self.skipped.items())[:most]]
        if len(self.skipped) > most:
            lines.append(f"  ... all of them are listed in {self.folder / 'index.json'}")
        return "\n".join(lines)


def printable(name: str) -> str:
    """A file name that any terminal can show."""
    return name.encode("utf-8", "backslashreplace").decode()


def prepare(source, image_size: int, folder, order=None, unwanted=None) -> Store:
    """Decode every picture of `source` once, on all cores, into a store at `folder`; open it if it is there already.

    A preparation that was killed goes on where it stopped. Of two at once, one waits for the other. A store of
    another size or of files that have changed since is made anew.

    Args:
        source: a folder or a zip, see `open_source`.
        image_size: side of the squares in pixels.
        order: a key to sort the names by; the rows of the store have this order.
        unwanted: a function like `is_grey`, uint8 (1, 3, S, S) -> bool; pictures for which it is true are left out.

    Raises:
        FileNotFoundError, ValueError: as for `open_source`. OSError: the disk is full; what is done is kept.
    """
    source, folder = open_source(source), Path(folder)
    names = sorted(source.files, key=order)
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{source.files[name]}\0".encode(errors="surrogateescape"))
    made_of = {
        "files": digest.hexdigest(),
        "image_size": image_size,
        "left out": getattr(unwanted, "__name__", None),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is preparing {folder.name}: waiting for it")
        lock.acquire()
    try:
        index = read_json(folder / "index.json")
        if index.get("made of") != made_of or not (folder / "pictures.npy").is_file():
            if index:
                print(f"the pictures in {source.path} have changed: preparing them again")
            build(source, names, made_of, folder, unwanted)
            index = read_json(folder / "index.json")
    finally:
        lock.release()
    skipped = index["skipped"]
    return Store(
        open_pictures(folder / "pictures.npy"),
        [name for name in names if name not in skipped],
        skipped,
        folder,
    )


def reason(error: Exception) -> str:
    """Why a file was left out, without the file's name."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or an empty file"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read_json(path: Path) -> dict:
    """The file's content, or {} if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


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


def write_header(file, count: int, size: int) -> int:
    """Write a .npy's header at the start of the file; numpy leaves room for any count, so its length is constant."""
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, size, size)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def read(source, name: str, size: int, unwanted) -> bytes | str:
    """The picture's bytes, or why there are none. Pillow has almost any exception for a broken file."""
    try:
        with source.open(name) as file:
            square = read_square(file, size)
    except Exception as error:
        return reason(error)
    if unwanted and bool(unwanted(torch.from_numpy(square.copy())[None])):
        return unwanted.__name__.replace("_", " ")
    return square.tobytes()


def build(source, names: list[str], made_of: dict, folder: Path, unwanted) -> None:
    """Prepare into FOLDER.partial, noting every so often how far it is; rename that when all is done."""
    partial, size = folder.with_name(f"{folder.name}.partial"), made_of["image_size"]
    progress, picture_bytes = partial / "progress.json", 3 * size * size
    ahead = min(256, 2 + 16 * 2**20 // picture_bytes)  # pictures decoded or being decoded, about 16 MB
    at = read_json(progress)
    if at.get("made of") != made_of:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        (partial / "pictures.npy").touch()
        at = {"made of": made_of, "done": 0, "rows": 0, "skipped": {}}
    elif at["done"]:
        print(f"going on after {at['done']:,} of {len(names):,} pictures")
    needed = (len(names) - at["done"]) * picture_bytes
    if needed > shutil.disk_usage(partial).free:
        raise OSError(
            f"the store needs {needed / 1e9:.1f} GB more at {partial}: make room, or lower IMAGE_SIZE"
        )

    def note():
        file.flush()
        os.fsync(file.fileno())
        write_json(progress, at)
        return time.monotonic()

    with (
        (partial / "pictures.npy").open("r+b") as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,  # decoding and resizing leave Python's lock
        tqdm(initial=at["done"], total=len(names), desc="preparing", unit="picture", leave=False) as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        start = write_header(file, 0, size)
        file.truncate(start + at["rows"] * picture_bytes)
        file.seek(0, os.SEEK_END)
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
            write_header(file, at["rows"], size)
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror} at {partial}: make room and run again, it goes on from picture {read_json(progress).get('done', 0):,}",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    write_json(partial / "index.json", {"made of": made_of, "skipped": at["skipped"]})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    (folder / "progress.json").unlink()


def write_json(path: Path, content: dict) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    os.replace(partial, path)
