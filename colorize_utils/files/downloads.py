"""Data sets from the network: fetched piece by piece, checked, never taken for good when broken.

pooch, the best-kept downloader there is, retries and checks hashes but starts an interrupted file over from
its first byte, and huggingface_hub goes on but takes whatever has the right size: hence `fetch`.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm.auto import tqdm

CHUNK = 2**16  # bytes read at a time
STEP = 2**20  # bytes beyond all before it that a connection must bring to count as progress
PAUSE = 1  # seconds to wait after a connection that was cut off; doubled after each in a row without progress

# Microsoft's copy of the Dogs vs. Cats photographs, https://www.microsoft.com/download/details.aspx?id=54765.
# Size and hash as recorded in huggingface/datasets, datasets/cats_vs_dogs/dataset_infos.json (commit 0129d93);
# gomlx/gomlx, examples/dogsvscats/dogsvscats.go, has the same hash.
DOGS_VS_CATS = {
    "url": "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
    "size": 824_887_076,
    "sha256": "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
}


class CutOff(ConnectionError):
    """The connection ended before the file did: worth another try."""


@contextlib.contextmanager
def _network():
    """Turn what a broken connection raises into CutOff. Nothing that touches the disk may happen inside."""
    try:
        yield
    except urllib.error.URLError:  # no connection at all, or an answer such as 404
        raise
    except (OSError, http.client.HTTPException) as error:
        raise CutOff(str(error) or type(error).__name__) from error


def _fits(path: Path, size, md5, sha256) -> bool:
    if size is not None and path.stat().st_size != size:
        return False
    for name, expected in (("md5", md5), ("sha256", sha256)):
        if expected is not None:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, name).hexdigest() != expected.lower():
                    return False
    return True


def _receive(url: str, partial: Path, start: int, size, patience: float) -> int:
    """Put what one connection brings into `partial` from byte `start` on; return where the server began."""
    request = urllib.request.Request(url, headers={"User-Agent": "colorize_utils"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with _network():
        answer = urllib.request.urlopen(request, timeout=patience)
    with answer:
        total = answer.length
        if answer.status == 206:
            given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers["Content-Range"] or "")
            if not given or int(given[1]) != start:
                partial.unlink(missing_ok=True)  # nothing goes on from there; the next try starts over
                raise CutOff(f"the server sent another part than the one from byte {start} on")
            total = int(given[2])
        else:
            start = 0  # the whole file, whatever was asked for
        if size is not None and total not in (None, size):
            raise ConnectionError(f"not the official file: {total} bytes instead of {size}")
        total = size if total is None else total
        bar = tqdm(desc=partial.stem, initial=start, total=total, unit="B", unit_scale=True, leave=False)
        try:
            with bar, open(partial, "ab" if start else "wb") as file:
                while True:
                    with _network():
                        chunk = answer.read1(CHUNK)  # what has come, so that nothing of it is lost
                    if not chunk:
                        break
                    file.write(chunk)
                    bar.update(len(chunk))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                error.errno, f"no room: the whole file needs {total or 'more'} bytes"
            ) from error
    came = partial.stat().st_size
    if total is not None and came < total:
        raise CutOff(f"{came} of {total} bytes came")
    return start


def _download(url: str, partial: Path, resume: bool, size, patience: float, tries: int) -> bool:
    """Connect until the server has nothing more; return whether `partial` was put together from parts."""

    def present() -> int:
        return partial.stat().st_size if resume and partial.exists() else 0

    failed, most = 0, present()
    while True:
        start = present()
        try:
            return _receive(url, partial, start, size, patience) > 0
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and start:
                return True  # the server has nothing after `start`: is this the file? The hash will tell
            raise ConnectionError(f"the server answers {error.code} {error.reason}") from error
        except (CutOff, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.URLError) and not failed:
                raise ConnectionError(f"there is no connection: {error.reason}") from error
            # against the most there ever was: a server that starts over each time would count for ever
            failed = 1 if present() >= most + STEP else failed + 1
            most = max(most, present())
            if failed >= tries:
                raise ConnectionError(f"cut off {failed} times in a row, at last: {error}") from error
            time.sleep(min(PAUSE * 2 ** (failed - 1), 30))


def fetch(url: str, path, *, size=None, md5=None, sha256=None, patience=60, tries=5) -> Path:
    """Download `url` to `path`, unless the right file is there already.

    It grows as `path` + ".partial" and appears under its name only when it is complete and checked. Where md5
    or sha256 is given, an interrupted download goes on where it stopped, in this call or a later one, and
    what was put together from parts and proves wrong is fetched once more in one piece. A second process
    waits for the first, with a lock on `path` + ".lock", which is left there.

    Args:
        url: http or https.
        path: of the file; its folder is made where it is missing.
        size: of the file in bytes. md5, sha256: its hash in hex. What is None is not checked.
        patience: seconds without a byte after which a connection counts as cut off.
        tries: connections in a row that may be cut off without bringing 1 MiB more than ever before.

    Returns:
        `path`.

    Raises:
        ValueError: there is another file at `path`; it is left alone.
        ConnectionError: the server cannot be reached, refuses, keeps breaking off or has another file.
        OSError: the file cannot be written: PermissionError, or with errno ENOSPC on a full disk, where what
            came is kept.
    """
    path = Path(path)
    partial, official = path.with_name(f"{path.name}.partial"), (size, md5, sha256)
    by_hand = f"or download {url} with a browser and put it at {path}"

    def present() -> bool:
        if not path.exists():
            return False
        if path.is_file() and _fits(path, *official):
            return True
        raise ValueError(
            f"{path} is not the official file (its size or hash differs): delete it and run again, {by_hand}"
        )

    try:
        if present():  # before the lock, which needs a folder that can be written to
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if present():  # another process has fetched it meanwhile
                return path
            resume = bool(md5 or sha256)  # without a hash, nothing tells whether parts belong together
            for again in (True, False):
                parts = _download(url, partial, resume, size, patience, tries)
                if _fits(partial, *official):
                    break
                partial.unlink()
                if not (parts and again):
                    raise ConnectionError("what came is not the official file: its size or hash differs")
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    except ConnectionError as error:
        raise ConnectionError(
            f"could not download {url} ({error}). Check the network and run again, {by_hand}"
        ) from error
    except OSError as error:
        problem = f"could not write {partial} ({error.strerror or error})"
        raise OSError(error.errno, f"{problem}. Mend that and run again, {by_hand}") from error
    return path


def fetch_dogs_vs_cats(folder, download: bool = True) -> Path:
    """Where the pictures of Dogs vs. Cats are: `folder`, or Microsoft's archive (a zip, 825 MB) in it.

    Args:
        folder: what was put there by hand, packed or unpacked, is used as it is; else the archive is fetched.
        download: whether it may be fetched. No account is needed.

    Raises:
        FileNotFoundError: it is not there and `download` is off. Otherwise as for `fetch`.
    """
    folder = Path(folder)
    archive = folder / DOGS_VS_CATS["url"].rsplit("/", 1)[1]
    present = os.listdir(folder) if folder.is_dir() else []
    if not all(name.startswith((".", archive.name)) for name in present):  # the archive, .partial, .lock
        return folder
    if not download and archive.name not in present:
        raise FileNotFoundError(
            f"Dogs vs. Cats is not in {folder}. Allow the download ({DOGS_VS_CATS['size'] / 1e6:.0f} MB), "
            f"or download {DOGS_VS_CATS['url']} with a browser and put it at {archive}"
        )
    return fetch(path=archive, **DOGS_VS_CATS)


def read_cifar(name: str, root, download: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The training and the test pictures of `name`, uint8 (50000, 32, 32, 3) and (10000, 32, 32, 3).

    They lie, or are put, in `root/cifar-10-batches-py` or `root/cifar-100-python`.

    Raises:
        FileNotFoundError: they are not there and `download` is off.
        ConnectionError: they are not there and could not be fetched.
        ValueError: a file there is not the official one.
    """
    import torchvision  # here, since the sample and folders do without

    dataset, root = getattr(torchvision.datasets, name.upper()), Path(root)
    folder, archive = root / dataset.base_folder, root / dataset.filename
    files = [*dataset.train_list, *dataset.test_list, [dataset.meta["filename"], dataset.meta["md5"]]]
    for file, md5 in files:
        if (folder / file).is_file() and hashlib.md5((folder / file).read_bytes()).hexdigest() != md5:
            raise ValueError(
                f"{folder / file} is not the official file (its md5 differs from {md5}): delete the folder {folder} and run again"
            )
    if not all((folder / file).is_file() for file, _ in files):
        sample = 'or set DATA = "sample", which needs no network'
        by_hand = (
            f"download {dataset.url} with a browser, unpack it in {root} so that {folder} exists, and run again; "
            f"{sample}"
        )
        if not download:
            raise FileNotFoundError(f"{name} is not in {root}. Allow the download, or {by_hand}")
        try:
            fetch(dataset.url, archive, md5=dataset.tgz_md5)
        except OSError as error:
            raise ConnectionError(f"could not download {name}: {error}; {sample}") from error
        try:
            # unpacked aside and moved into place, so that a process beside this one never reads half a file,
            # and none stays where this one is killed
            with tempfile.TemporaryDirectory(dir=root) as aside:
                torchvision.datasets.utils.extract_archive(archive, aside)
                folder.mkdir(exist_ok=True)
                for file, _ in files:
                    os.replace(Path(aside) / dataset.base_folder / file, folder / file)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise ConnectionError(
                f"could not unpack {archive} ({error}). Check the disk and run again; or {by_hand}"
            ) from error
    return dataset(root, train=True).data, dataset(root, train=False).data
