"""Pictures in a folder or a zip, and the store that keeps them prepared on the disk."""

import contextlib
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
import tempfile
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from colorize_utils.files import disk

READING = 2  # goes up when the same file gives another square: older stores are then made anew
HIDDEN = re.compile(r"(?i)(^|/)(\.|(__macosx|thumbs\.db|desktop\.ini)(/|$))")  # systems leave these
NONE, APPLE = "not a picture, or an empty file", "Pillow does not read HEIC: export it as JPEG"
HINTS = {".heic": APPLE, ".heif": APPLE, ".zip": "a zip: unpack it, or give its path alone"}
MOST_BYTES, MOST_EXPANSION = 256 * 2**20, 200  # of one file in a zip; of all: a bomb has over a thousand
MEGAPIXELS = 64  # decoded at once, at up to 12 bytes a pixel
FREE, TURN = threading.Semaphore(MEGAPIXELS), threading.Lock()
Image.core.set_block_size(2**26)  # the C library frees a block this large at once, others perhaps never
PRIVATE = {"access": mmap.ACCESS_COPY}  # what a student writes into a picture stays in memory
if sys.platform == "linux":  # and need not be kept free: Python names this flag from 3.13 on
    PRIVATE = {"flags": mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)}


class Folder:
    """All files below a folder; `files` maps each name, with slashes, to what tells that it has changed."""

    def __init__(self, path):
        self.path, self.files, seen, errors = Path(path), {}, set(), []
        for place, folders, names in os.walk(path, onerror=errors.append, followlinks=True):
            here = os.stat(place)
            ours = "pictures.npy" in names and {"pictures.npy", "index.json"}.issuperset(names)
            if ours or (here.st_dev, here.st_ino) in seen:  # a store, or a link to where we have been
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            folders[:] = sorted(folder for folder in folders if not HIDDEN.search(folder))
            for file in (os.path.join(place, name) for name in names if not HIDDEN.search(name)):
                found = os.stat(file) if os.path.exists(file) else os.lstat(file)
                stamp = f"{found.st_size} {found.st_mtime_ns} {found.st_mode}"
                self.files[Path(file).relative_to(path).as_posix()] = stamp
        for error in errors:
            raise OSError(error.errno, disk.because(error), error.filename)

    def open(self, name: str):
        path = self.path / name
        if os.path.lexists(path) and not path.is_file():
            raise OSError("no regular file, or a link that leads nowhere")
        return path.open("rb")


class Zip:
    """The same of a zip, which is never unpacked. A ValueError refuses one that is broken or made to do harm."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            self.zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no zip, or not all of it ({error}): fetch it again") from error
        members = self.zip.infolist()
        for name, mode in ((member.filename, member.external_attr >> 16) for member in members):
            if re.match(r"/|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name) or stat.S_ISLNK(mode):
                raise ValueError(f"{path} is refused: {name!r} is a link, or leads out of it")
        unpacked = sum(member.file_size for member in members)
        if unpacked > MOST_EXPANSION * max(self.path.stat().st_size, 2**20):
            raise ValueError(f"{path} is refused: it would unpack to {unpacked / 1e9:.1f} GB")
        shown = [member for member in members if not (member.is_dir() or HIDDEN.search(member.filename))]
        self.files = {member.filename: f"{member.file_size} {member.CRC}" for member in shown}

    @contextlib.contextmanager
    def open(self, name: str):
        if self.zip.getinfo(name).file_size > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES >> 20} MB")
        # beyond 16 MB on the disk, since many threads are at it
        with tempfile.SpooledTemporaryFile(2**24) as file, self.zip.open(name) as packed:
            shutil.copyfileobj(packed, file)
            file.seek(0)
            yield file


def find(name, root="") -> Path:
    """Where the folder or zip `name` is, as it stands or below `root`; a ValueError if it is nowhere."""
    here = disk.place(os.path.expanduser(name))
    for path in (here, Path(root) / name):
        if str(name).strip() and path.exists():
            return path
    choices = "sample, cifar10, cifar100, dogs-vs-cats or the path of a folder or zip of pictures"
    raise ValueError(f"no data set is called {str(name)!r}, and nothing is at {here}: choose {choices}")


def open_source(path) -> Folder | Zip:
    """What is at `path`: a folder of files, a zip, or a folder with one zip and no picture beside it."""
    path = find(path)
    source = Folder(path) if path.is_dir() else Zip(path)
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    zips = [name for name in source.files if "/" not in name and name.lower().endswith(".zip")]
    none = known.isdisjoint(Path(name).suffix.lower() for name in source.files)
    if not (none and len(zips) == 1 and path.is_dir()):
        return source
    if others := [name for name in source.files if name != zips[0]]:
        print(f"taking {zips[0]}, and not what is beside it: {len(others)} files, such as {others[0]}")
    return Zip(path / zips[0])


@contextlib.contextmanager
def room(pixels: int):
    """Wait until so many pixels fit into memory beside the others; a picture of more than all comes alone."""
    share = min(MEGAPIXELS, 1 + pixels // 2**20)
    with TURN:  # one thread takes at a time, or two would wait for each other
        for _ in range(share):
            FREE.acquire()
    try:
        yield
    finally:
        FREE.release(share)


def to_srgb(picture, profile: bytes | None):
    """Mode L, RGB or CMYK as sRGB. An ICC profile that is broken, or of another mode, counts as sRGB."""
    with contextlib.suppress(ImportError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        profile, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        if profile.profile.xcolor_space == "RGB " and picture.mode == "L":
            picture = picture.convert("RGB")
        return ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
    return picture.convert("RGB")


def fitted(photo, size: tuple[int, int]):
    """The middle at that size as sRGB, not turned yet; what can be done to the small one is not done to the photo."""
    deep, clear = photo.mode.startswith("I"), photo.has_transparency_data
    if photo.mode == "F" or (photo.mode == "I" and photo.format not in ("PNG", "PPM")):  # 16 bits
        raise ValueError("pixels of 32 bits, or below 0, have no fixed range: save it with 8 or 16 bits")
    bits = getattr(photo, "tag_v2", {}).get(258, (16,))[0]  # of a TIFF, which may have 12
    modes = ("I",) if deep else ("RGBA", "LA") if clear else ("RGB", "L", "CMYK")
    photo = photo if photo.mode in modes else photo.convert(modes[0])
    small = ImageOps.fit(photo, size, Image.Resampling.BICUBIC)
    if deep:
        values = np.asarray(small) * 255.0 / (2**bits - 1)
        small = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    alpha = small.getchannel("A") if small.mode in ("LA", "RGBA") else None
    rgb = to_srgb(small.convert(small.mode[:-1]) if alpha else small, photo.info.get("icc_profile"))
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha) if alpha else rgb


def read_picture(file, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture's middle at that size (or all of it, at most 1,024 pixels long), upright, uint8 sRGB, on white."""
    with Image.open(file) as photo:
        size = size or tuple(max(1, round(x * min(1, 1024 / max(photo.size)))) for x in photo.size)
        whole = photo.width * photo.height // 2 if "progressive" in photo.info else 0  # kept in any case
        photo.draft("RGB", size)  # a JPEG decodes at 1/2, 1/4 or 1/8 size: much less work
        with room(max(whole, photo.width * photo.height)):
            small = fitted(photo, size)
            turned = photo.getexif().get(ExifTags.Base.Orientation, 1)
    if turned != 1:
        small.info = {}
        small.getexif()[ExifTags.Base.Orientation] = turned
        small = ImageOps.exif_transpose(small)
    return np.asarray(small).transpose(2, 0, 1)


def read_square(file, size: int) -> np.ndarray:
    """The middle square of a picture (a path or a file): (3, size, size)."""
    return read_picture(file, (size, size))


def read_photograph(path) -> torch.Tensor:
    """The whole photograph at a path, uint8 RGB (3, H, W); one that is cut off gives Pillow's OSError."""
    place = disk.place(os.path.expanduser(path))
    if not place.is_file():
        raise FileNotFoundError(f"no photograph is called {str(path)!r}, and no file is at {place}")
    try:
        return torch.from_numpy(read_picture(place).copy())
    except UnidentifiedImageError as error:
        raise ValueError(f"{place}: {HINTS.get(place.suffix.lower(), NONE)}") from error


class Store(NamedTuple):
    """Prepared pictures, uint8 RGB (N, 3, S, S), on the disk; their names; names and reasons of those left out."""

    pictures: torch.Tensor
    names: list[str]
    skipped: dict[str, str]
    folder: Path

    def report(self, most: int = 5) -> str:
        """How many files were found, used and left out, and why, in letters that this terminal has."""
        used, out = len(self.names), len(self.skipped)
        lines = [f"found {used + out:,} files, used {used:,}, left out {out:,}"]
        lines += [f"  {name}: {why}" for name, why in list(self.skipped.items())[:most]]
        lines += [f"  ... all of them are listed in {self.folder / 'index.json'}"] * (out > most)
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        return "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)


def prepare(source, image_size: int, folder, order=None) -> Store:
    """Decode every picture of `source` once, on all cores, into a store at `folder`; `order` sorts the names.

    A store that is there is opened, unless it is damaged, of another size or of files that have changed. Of
    two at once, one waits; one that was cut off begins again (25,000 photographs take half a minute).
    """
    if image_size not in range(1, 2**16):
        raise ValueError(f"image_size has to be 1 or more, not {image_size!r}")
    folder, source = disk.place(folder), open_source(source)
    names = sorted(source.files, key=order)
    files = json.dumps([(name, source.files[name]) for name in names]).encode()
    made_of = {"files": hashlib.sha256(files).hexdigest(), "image_size": image_size, "reading": READING}
    if store := opened(folder, names, made_of):
        return store
    with disk.locked(folder.with_name(f".{folder.name}.lock")):
        if not opened(folder, names, made_of):  # another process may have made it meanwhile
            if folder.exists():
                print(f"{source.path.name} has changed, or its store is damaged: preparing it again")
            build(source, names, made_of, folder)
        return opened(folder, names, made_of)


def opened(folder: Path, names: list[str], made_of: dict) -> Store | None:
    """The store at `folder`; None if it is absent, of something else, or damaged: whatever can't be read."""
    with contextlib.suppress(Exception):
        index, file = json.loads((folder / "index.json").read_text()), folder / "pictures.npy"
        skipped = {name: str(why) for name, why in index["skipped"].items()}
        kept, size = [name for name in names if name not in skipped], made_of["image_size"]
        rows = np.load(file, mmap_mode="r")
        right = (rows.dtype, rows.shape) == (np.uint8, (len(kept), 3, size, size))
        whole = rows.flags.c_contiguous and rows.offset + rows.nbytes == file.stat().st_size
        if right and whole and len(kept) + len(skipped) == len(names) and index["made of"] == made_of:
            with file.open("rb") as store:
                memory = mmap.mmap(store.fileno(), 0, **PRIVATE)
            pictures = torch.frombuffer(memory, dtype=torch.uint8, offset=rows.offset)
            return Store(pictures.reshape(rows.shape), kept, skipped, folder)


def read(source, name: str, size: int) -> bytes | str:
    """The picture's bytes, or why there are none. Raises only what is no picture's fault: a disk that fails."""
    try:
        with source.open(name) as file:
            return read_square(file, size).tobytes()
    except UnidentifiedImageError:
        return HINTS.get(Path(name).suffix.lower(), NONE)
    except Exception as error:  # almost any, for a broken file; EINVAL is a seek to before its start
        known = getattr(error, "errno", None) in (None, errno.EACCES, errno.EPERM, errno.EINVAL)
        if isinstance(error, MemoryError) or not known:
            error.filename = name
            raise
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


def build(source, names: list[str], made_of: dict, folder: Path) -> None:
    """Prepare into FOLDER.partial, and rename that when all of it is there."""
    partial, size, skipped = folder.with_name(f"{folder.name}.partial"), made_of["image_size"], {}
    ahead = min(16, 1 + 2**20 // (3 * size * size))  # eights of pictures in a block, about 8 MB
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with (
            (partial / "pictures.npy").open("wb") as file,
            ThreadPoolExecutor(os.cpu_count()) as pool,  # decoding and resizing leave Python's lock
            tqdm(total=len(names), desc="preparing", unit="picture", leave=False) as bar,
            warnings.catch_warnings(action="ignore"),
        ):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file.write(bytes(128))  # where numpy's header will be, when the count is known
            some, waiting = [names[i : i + 8] for i in range(0, len(names), 8)], []
            for i in range(0, len(some) + ahead, ahead):  # two blocks are under way: no core is idle
                block = pool.map(lambda few: [(x, read(source, x, size)) for x in few], some[i:][:ahead])
                for found in waiting:
                    for name, square in found:
                        if isinstance(square, str):
                            skipped[name] = square
                        else:
                            file.write(square)
                    bar.update(len(found))
                waiting = block
            shape = (len(names) - len(skipped), 3, size, size)
            file.seek(0)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            assert file.tell() == 128
            file.flush()
            os.fsync(file.fileno())
        index = json.dumps({"made of": made_of, "skipped": skipped}, indent=1)
        disk.write_whole(partial / "index.json", index.encode())
        if len(skipped) < len(names):
            shutil.rmtree(folder, ignore_errors=True)  # of something else, or damaged
            os.replace(partial, folder)
    except OSError as error:
        where = f"{source.path} was not prepared with image_size={size}: {error.filename or partial}"
        raise OSError(error.errno, f"{where}: {disk.because(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if len(skipped) == len(names):
        why = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:5]) or "no file"
        raise FileNotFoundError(f"no picture in {source.path}: {why}")
