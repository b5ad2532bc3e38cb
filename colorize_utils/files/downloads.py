"""Data sets from the network: from the first address that is fast enough, going on where it was cut off, checked.

(pooch starts an interrupted file over, huggingface_hub takes whatever has the right size.)"""

import hashlib
import os
import re
import tempfile
import time
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from tqdm.auto import tqdm

from colorize_utils.files import disk

SLOW, WINDOW = 300_000, 20  # fewer bytes a second over so many seconds: another address may be faster
TRIES, STEP = 5, 2**20  # so many failures in a row, none with so many bytes more than ever before
PATIENCE, PAUSE = 60, 1  # seconds without a byte until it counts as cut off; until the next try, doubled

# The official host can take an hour (pytorch/vision#9536); these have the same files, to the byte.
CIFAR_MIRRORS = ["https://dataset.bj.bcebos.com/cifar/", "https://cave.cs.toronto.edu/kriz/"]
# Microsoft's copy of Dogs vs. Cats, https://www.microsoft.com/download/details.aspx?id=54765; size and hash as in
# huggingface/datasets, cats_vs_dogs/dataset_infos.json (0129d93); gomlx/gomlx, dogsvscats.go, has the same hash.
DOGS_VS_CATS = {
    "urls": "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
    "size": 824_887_076,
    "sha256": "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
}


def _fits(path: Path, size=None, **hashes) -> bool:
    """Whether the file has that size and those hashes; None is not known."""
    right = size in (None, path.stat().st_size)
    for name, value in hashes.items():
        with open(path, "rb") as file:
            right = right and (value is None or hashlib.file_digest(file, name).hexdigest() == value)
    return right


def _receive(url: str, partial: Path, start: int, size, hurry: bool) -> int:
    """Put what one connection brings into `partial` from byte `start` on; return where the server began."""
    headers = {"User-Agent": "colorize_utils"} | ({"Range": f"bytes={start}-"} if start else {})
    with urlopen(Request(url, headers=headers), timeout=WINDOW if hurry else PATIENCE) as answer:
        given = re.match(rf"bytes {start}-\d+/(\d+)", answer.headers["Content-Range"] or "")
        if answer.status == 206 and not given:
            raise HTTPError(url, 416, "another part than asked for", answer.headers, None)
        start, total = (start, int(given[1])) if given else (0, answer.length)
        if None not in (size, total) and total != size:
            raise ValueError(f"another file: {total} bytes instead of {size}")
        bar = tqdm(desc=partial.stem, initial=start, total=total, unit="B", unit_scale=True, leave=False)
        with bar, open(partial, "ab" if start else "wb") as file:
            before, since = start, time.monotonic()
            while chunk := answer.read1(2**16):  # what has come, so that nothing of it is lost
                file.write(chunk)
                bar.update(len(chunk))
                if hurry and (seconds := time.monotonic() - since) >= WINDOW:
                    if (speed := (file.tell() - before) / seconds) < SLOW:
                        raise TimeoutError(f"only {speed / 1000:.0f} kB/s")
                    before, since = file.tell(), time.monotonic()
            file.flush()
            os.fsync(file.fileno())
    if (came := partial.stat().st_size) < (total or size or 0):
        raise ConnectionError(f"{came} of {total or size} bytes came")
    return start


def _complete(urls: list[str], partial: Path, size, **hashes) -> None:
    """Fill `partial` with the right file: once round the addresses in a hurry, then from any that still may have it."""

    def present() -> int:  # without a hash, nothing tells whether parts belong together
        return partial.stat().st_size if any(hashes.values()) and partial.exists() else 0

    if present() and _fits(partial, size, **hashes):
        return
    queue, said, failed, most = [(url, True) for url in urls], {}, 0, 0
    for url, first in queue:
        try:
            start = _receive(url, partial, present(), size, hurry=first and url != urls[-1])
            if _fits(partial, size, **hashes):
                return
            partial.unlink()
            raise (ConnectionError if start else ValueError)("another file came")  # or parts of two
        except (URLError, HTTPException, SSLError, ConnectionError, TimeoutError, ValueError) as error:
            said[url] = f"{url}: {error}"
            if over := getattr(error, "code", 0) == 416:  # the server has nothing that could follow
                partial.unlink(missing_ok=True)
            # against the most there ever was: a server that starts over each time would count for ever
            failed, most = 0 if present() >= most + STEP else failed + 1, max(most, present())
            final = isinstance(error, (ValueError, URLError if first else HTTPError)) and not over
            if failed < TRIES and not final:
                print(f"{said[url]}; going on", flush=True)
                queue.append((url, False))
                time.sleep(min(PAUSE * 2**failed, 30))
    raise ConnectionError("; ".join(said.values()))


def fetch(urls, path, *, size=None, md5=None, sha256=None, download=True, instead="") -> Path:
    """Download a file to `path`, unless it is there, and check what is known of its size and hashes.

    It grows as `path` + ".partial" and gets its name when it is right. With a hash, it goes on where it stopped, at
    any address, now or later. Of several `urls`, all but the last must be fast, as long as one is.

    Raises ValueError where another file is at `path`, FileNotFoundError where none is and `download` is off,
    ConnectionError where no address has it now, OSError where it cannot be written; all say what to do (`instead`).
    """
    urls, path = [urls] if isinstance(urls, str) else urls, disk.place(path)
    official = {"size": size, "md5": md5, "sha256": sha256}
    by_hand = f"or download {urls[0]} with a browser and put it at {path}{instead}"

    def present() -> bool:
        if path.exists() and not (path.is_file() and _fits(path, **official)):
            raise ValueError(f"{path} is not the official file: delete it and run again, {by_hand}")
        return path.exists()

    if not (download or path.exists()):
        raise FileNotFoundError(f"{path} is not there: allow the download, {by_hand}")
    try:
        if present():  # before the lock, which needs a folder that can be written to
            return path
        with disk.locked(f"{path}.lock"):
            if not present():  # no other process has fetched it meanwhile
                _complete(urls, Path(f"{path}.partial"), **official)
                os.replace(f"{path}.partial", path)
    except ConnectionError as error:
        says = f"could not download {path.name} ({error}). Check the network and run again, {by_hand}"
        raise ConnectionError(says) from error
    except OSError as error:
        raise OSError(error.errno, f"could not fetch {path} ({disk.because(error)})") from error
    return path


def fetch_dogs_vs_cats(folder, download: bool = True) -> Path:
    """Where Dogs vs. Cats is: `folder`, if anything was put there by hand, or Microsoft's archive (825 MB) in it."""
    archive = Path(folder) / DOGS_VS_CATS["urls"].rsplit("/", 1)[1]
    if not all(file.name.startswith((".", archive.name)) for file in Path(folder).glob("*")):
        return Path(folder)  # something besides the archive, its .partial and its .lock
    return fetch(path=archive, download=download, **DOGS_VS_CATS)


def read_cifar(name: str, root, download: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR's training and test pictures, uint8 (50000, 32, 32, 3) and (10000, 32, 32, 3); errors as for `fetch`."""
    import torchvision  # here, since the sample and folders do without

    dataset, root = getattr(torchvision.datasets, name.upper()), Path(root)
    folder, archive = root / dataset.base_folder, root / dataset.filename
    if not folder.is_dir():
        urls = [*(mirror + dataset.filename for mirror in CIFAR_MIRRORS), dataset.url]
        sample = '; or take "sample", which needs no network'
        fetch(urls, archive, md5=dataset.tgz_md5, download=download, instead=sample)
        try:
            with disk.locked(f"{archive}.lock"), tempfile.TemporaryDirectory(dir=root) as aside:
                torchvision.datasets.utils.extract_archive(archive, aside)
                if not folder.is_dir():  # whole or not at all, whoever comes first or is killed
                    os.replace(Path(aside) / dataset.base_folder, folder)
        except OSError as error:
            raise OSError(error.errno, f"could not unpack {archive} ({disk.because(error)})") from error
    try:
        return dataset(root, train=True).data, dataset(root, train=False).data
    except RuntimeError as error:  # torchvision looks at the md5 of each file
        raise ValueError(f"{folder} is not the official one: delete it and run again") from error
