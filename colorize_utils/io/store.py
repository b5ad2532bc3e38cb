"""Pictures prepared once and read from the disk ever after, so that memory does not grow with their number.

A store is a folder with `pictures.npy`, uint8 RGB (N, 3, S, S), which np.load opens as well, and `index.json`, which
says what it was made of and which files were left out and why.
"""

import errno
import hashlib
import io
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
