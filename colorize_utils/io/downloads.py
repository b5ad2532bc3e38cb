"""CIFAR-10 and CIFAR-100 on disk: fetched through torchvision, checked, read as one uint8 array."""

import hashlib
import http.client
import socket
import tarfile
import zlib
from pathlib import Path

import numpy as np


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
    folder = root / dataset.base_folder
    files = [*dataset.train_list, *dataset.test_list, [dataset.meta["filename"], dataset.meta["md5"]]]
    for file, md5 in files:
        if (folder / file).is_file() and hashlib.md5((folder / file).read_bytes()).hexdigest() != md5:
            raise ValueError(
                f"{folder / file} is not the official file (its md5 differs from {md5}): delete the folder {folder} and run again"
            )
    if not all((folder / file).is_file() for file, _ in files):
        by_hand = (
            f"download {dataset.url} with a browser, unpack it in {root} so that {folder} exists, and run again; "
            'or set DATA = "sample", which needs no network'
        )
        if not download:
            raise FileNotFoundError(f"{name} is not in {root}. Allow the download, or {by_hand}")
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(60)  # seconds without a byte; torchvision would wait for ever
        try:
            dataset(root, download=True)
        except (
            OSError,
            RuntimeError,
            EOFError,
            http.client.HTTPException,
            tarfile.TarError,
            zlib.error,
        ) as error:
            raise ConnectionError(
                f"could not download {name} ({error}). Check the network and the disk and run again; or {by_hand}"
            ) from error
        finally:
            socket.setdefaulttimeout(patience)
    return dataset(root, train=True).data, dataset(root, train=False).data
