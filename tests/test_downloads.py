"""Downloads, from real servers on localhost that misbehave in every way that was seen."""

import contextlib
import hashlib
import http.server
import os
import pickle
import random
import re
import resource
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import DEFAULT, Mock
from urllib.error import URLError

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from colorize_utils.files import downloads
from colorize_utils.files.downloads import fetch, fetch_dogs_vs_cats, read_cifar

CONTENT = random.Random(0).randbytes(300_000)
OTHER, SIZE = CONTENT[::-1], len(CONTENT)
MD5, SHA = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class Site(http.server.ThreadingHTTPServer):
    """Misbehaves as told, and keeps a log of the bytes that it was asked to begin at."""

    content, status, ranges, length, shift = CONTENT, None, True, True, 0
    cuts, silent = (), 0  # bytes for each of the first connections, and seconds before each ends
    step, delay = 2**20, 0.0  # bytes at a time, and seconds between

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url, self.log = f"http://127.0.0.1:{self.server_port}/file.bin", []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        site, size = self.server, len(self.server.content)
        site.log.append(int(self.headers.get("Range", "bytes=0-")[6:-1]))
        start = site.log[-1] if site.ranges else 0
        if site.status or start >= size:
            return self.send_error(site.status or 416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + site.shift}-{size - 1}/{size}")
        if site.length:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        cut = dict(enumerate(site.cuts)).get(len(site.log) - 1)
        body = site.content[start:][:cut]
        with contextlib.suppress(ConnectionError):  # the client was killed, or went elsewhere
            for i in range(0, len(body), site.step):
                self.wfile.write(body[i : i + site.step])
                time.sleep(site.delay)
        if cut is not None:
            site.content = CONTENT
            time.sleep(site.silent)

    def log_message(self, *_):
        pass


@pytest.fixture
def sites(monkeypatch):
    for name, value in {"PAUSE": 0.001, "PATIENCE": 2, "WINDOW": 0.6, "STEP": 100_000}.items():
        monkeypatch.setattr(downloads, name, value)
    sites = [Site() for _ in range(3)]
    yield sites
    for site in sites:
        site.stop()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.bin"


@pytest.fixture
def partial(path):
    return path.with_name("file.bin.partial")


def refused(error, urls, path, **options):
    """What `fetch` says when it fails, which ends with the way by hand."""
    with pytest.raises(error) as told:
        fetch(urls, path, **options)
    assert str(told.value).endswith(f" with a browser and put it at {path}")
    return str(told.value)


def test_a_file_is_fetched_once(sites, path, partial):
    url, official = sites[0].url, {"size": SIZE, "md5": MD5, "sha256": SHA}
    assert "allow the download" in refused(FileNotFoundError, url, path, **official, download=False)
    assert fetch(url, path, **official) == path
    assert path.read_bytes() == CONTENT and not partial.exists()
    assert fetch(url, str(path), **official, download=False) == path and sites[0].log == [0]
    with pytest.raises(ValueError, match="in no Google Drive that is mounted"):
        fetch(url, "/content/drive/MyDrive/file.bin")


FOUR, ASKED = [5, 0, 2000, 70_000], [0, 5, 5, 2005, 72_005]
SERVERS = {  # what it does, what the last run left, what is known, the bytes that it is asked for
    "cuts off anywhere": ({"cuts": FOUR}, b"", {"sha256": SHA}, ASKED),
    "says no length": ({"cuts": FOUR, "length": False}, b"", {"md5": MD5, "size": SIZE}, ASKED),
    "cannot resume": ({"ranges": False, "cuts": [20, 10, 0]}, b"", {"md5": MD5}, [0, 20, 10, 0]),
    "sends another part": ({"shift": 5, "cuts": [1000]}, b"", {"md5": MD5}, [0, 1000, 0]),
    "changes the file": ({"content": OTHER, "cuts": [1000]}, b"", {"md5": MD5}, [0, 1000, 0]),
    "has no more than we have": ({}, CONTENT, {"md5": MD5}, []),
    "has less than we have": ({}, OTHER + b"x", {"md5": MD5}, [SIZE + 1, 0]),
    "has a file of unknown hash": ({"cuts": [1000]}, b"another's", {"size": SIZE}, [0, 0]),
}


@pytest.mark.parametrize("does, left, official, asked", SERVERS.values(), ids=SERVERS)
def test_the_right_file_comes_from_a_server_that(does, left, official, asked, sites, path, partial):
    vars(sites[0]).update(does)
    partial.write_bytes(left)
    assert fetch(sites[0].url, path, **official).read_bytes() == CONTENT
    assert sites[0].log == asked


def test_progress_gives_new_tries_and_nothing_else_does(sites, path, monkeypatch):
    monkeypatch.setattr(downloads, "STEP", 1000)
    for site, cut in zip(sites, (500, 2000, 1001)):
        site.cuts = [cut] * 20
    sites[1].ranges = False  # starts over each time
    for site in sites[:2]:
        refused(ConnectionError, site.url, path, md5=MD5)
        assert len(site.log) in (5, 6)
    assert fetch(sites[2].url, path, md5=MD5).read_bytes() == CONTENT and len(sites[2].log) == 21


@pytest.mark.parametrize("known", [{"md5": SHA}, {"sha256": MD5}, {"size": 5}, {"size": SIZE + 1}])
def test_wrong_bytes_are_not_taken_for_good_nor_asked_for_for_ever(sites, path, known):
    sites[1].length, sites[2].cuts = False, [1000, None] * 9
    for site in sites:
        assert re.search("another|bytes came", refused(ConnectionError, site.url, path, **known))
        assert not path.exists() and len(site.log) < 7
    path.write_bytes(b"my thesis")
    assert "is not the official file: delete it" in refused(ValueError, sites[0].url, path, **known)
    assert path.read_bytes() == b"my thesis"


SLOW, SOME, GONE = {"step": 2000, "delay": 0.02}, range(1000, SIZE), {"status": 404}  # 100 kB/s
MIRRORS = {  # what the three do, how often each is asked, where the second goes on, what is said
    "slow, as all are": ([SLOW, SLOW, SLOW], [1, 1, 1], SOME, "kB/s; going on"),
    "slow, but alive": ([SLOW, SLOW, {"status": 503}], [2, 1, 1], SOME, "kB/s; going on"),
    "silent": ([{"cuts": [5000], "silent": 1.3}, {}, {}], [1, 1, 0], [5000], "timed out; going on"),
    "alone": ([GONE, GONE, {"cuts": [5000], "silent": 9}], [1, 1, 2], [0], "timed out; going on"),
    "another file": ([{"content": OTHER}, {}, {}], [1, 1, 0], [0], ""),
}


@pytest.mark.parametrize("servers, asked, second, says", MIRRORS.values(), ids=MIRRORS)
def test_the_next_address_goes_on_from_there(servers, asked, second, says, sites, path, capsys):
    for site, behaviour in zip(sites, servers):
        vars(site).update(behaviour)
    assert fetch([site.url for site in sites], path, md5=MD5).read_bytes() == CONTENT
    assert [len(site.log) for site in sites] == asked and sites[1].log[0] in second
    said = capsys.readouterr().out
    assert says in said and bool(says) == bool(said)


def test_at_the_end_it_says_what_each_said_and_keeps_what_came(sites, path, partial, capsys):
    partial.write_bytes(CONTENT[:1000])
    sites[0].stop()
    sites[1].status, sites[2].content, sites[2].ranges = 404, b"<html>Please log in", False
    said = refused(ConnectionError, [site.url for site in sites], path, size=SIZE, md5=MD5)
    for site, what in zip(sites, ("Connection refused", "Error 404", "19 bytes instead of 300000")):
        assert re.search(f"{site.url}: [^;]*{what}", said)
    assert partial.read_bytes() == CONTENT[:1000]
    assert capsys.readouterr().out == ""  # none is asked again


def test_a_network_that_comes_back_is_used(sites, path, monkeypatch):
    happens = [ConnectionError("cut off"), URLError("gone"), URLError("gone"), DEFAULT]
    monkeypatch.setattr(downloads, "urlopen", Mock(wraps=downloads.urlopen, side_effect=happens))
    assert fetch(sites[0].url, path, md5=MD5).read_bytes() == CONTENT


def test_what_a_killed_process_left_is_resumed(sites, path, partial):
    sites[0].step, sites[0].delay = 10_000, 0.05
    process = get_context("spawn").Process(target=fetch, args=(sites[0].url, path))
    process.start()
    while not partial.exists() or partial.stat().st_size < 50_000:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    there, sites[0].delay = partial.stat().st_size, 0
    assert fetch(sites[0].url, path, md5=MD5).read_bytes() == CONTENT
    assert sites[0].log == [0, there] and there < SIZE


def test_dogs_vs_cats_comes_once_or_is_used_as_it_is(sites, path, partial, monkeypatch):
    monkeypatch.setattr(downloads, "DOGS_VS_CATS", {"urls": sites[0].url, "sha256": SHA})
    partial.write_bytes(CONTENT[:1000])
    assert fetch_dogs_vs_cats(path.parent) == fetch_dogs_vs_cats(path.parent, False) == path
    assert path.read_bytes() == CONTENT and sites[0].log == [1000]
    (path.parent / "train.zip").write_bytes(b"Kaggle's")
    assert fetch_dogs_vs_cats(path.parent) == path.parent


@pytest.fixture
def cifar(sites, tmp_path_factory, monkeypatch):
    """Turns CIFAR-100 into ten pictures on localhost: two mirrors, and the official host."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 2, (2, 5, 32, 32, 3), dtype=np.uint8)
    meta = {"filename": "train", "key": "fine_label_names", "md5": None}
    small = {"url": sites[2].url, "filename": "small.tar.gz", "meta": meta}
    for name, part in zip(("train", "test"), pixels.transpose(0, 1, 4, 2, 3).reshape(2, 5, -1)):
        content = pickle.dumps({"data": part, "fine_labels": [0] * 5, "fine_label_names": ["a"]})
        (folder / name).write_bytes(content)
        small[f"{name}_list"] = [[name, hashlib.md5(content).hexdigest()]]
    packed = Path(shutil.make_archive(folder, "gztar", folder.parent, folder.name)).read_bytes()
    small["tgz_md5"] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr("torchvision.datasets.CIFAR100", type("Small", (CIFAR100,), small))
    monkeypatch.setattr(downloads, "CIFAR_MIRRORS", [site.url + "/" for site in sites[:2]])
    for site in sites:
        site.content = packed
    return pixels


def test_cifar_comes_once_for_two_readers_and_a_changed_file_is_left_alone(cifar, sites, tmp_path):
    sites[0].status, sites[1].delay = 404, 0.3
    with ThreadPoolExecutor(2) as pool:
        for reader in [pool.submit(read_cifar, "cifar100", tmp_path) for _ in range(2)]:
            assert np.array_equal(reader.result(), cifar)
    assert [len(site.log) for site in sites] == [1, 1, 0]
    changed = tmp_path / "cifar-100-python" / "test"
    changed.write_bytes(b"changed")
    with pytest.raises(ValueError, match="cifar-100-python is not the official one: delete it"):
        read_cifar("cifar100", tmp_path)
    assert changed.read_bytes() == b"changed"


def test_cifar_names_the_ways_out_and_keeps_what_came_on_a_full_disk(cifar, sites, tmp_path):
    ways = f"or download {sites[0].url}/small.tar.gz with a browser and put it .*; or take .sample."
    with pytest.raises(FileNotFoundError, match=f"allow the download, {ways}"):
        read_cifar("cifar100", tmp_path, download=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for room, what in (1000, "fetch"), (10_000, "unpack"):  # as on a disk with so little
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            with pytest.raises(OSError, match=f"could not {what} .*small.tar.gz .*: make room"):
                read_cifar("cifar100", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert np.array_equal(read_cifar("cifar100", tmp_path, download=False), cifar)
    assert [site.log for site in sites] == [[0, 1000], [], []]


def test_a_read_only_folder_is_read_from_and_named_where_it_must_be_written_to(cifar, sites):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as root:  # tmp_path lies where only its owner may enter
        read_cifar("cifar100", root)
        Path(root, "empty").mkdir(mode=0o555)
        os.chmod(root, 0o555)
        os.seteuid(65534) if user == 0 else None  # root may write everywhere
        try:
            assert np.array_equal(read_cifar("cifar100", root), cifar)
            fetch(sites[0].url, f"{root}/small.tar.gz")
            with pytest.raises(PermissionError, match="denied: .*choose a folder that you may"):
                read_cifar("cifar100", f"{root}/empty")
        finally:
            os.seteuid(user)
