"""Downloads, from real servers on localhost that misbehave in every way that was seen."""

import contextlib
import errno
import hashlib
import http.server
import os
import pickle
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torchvision

from colorize_utils.files import downloads
from colorize_utils.files.downloads import fetch, fetch_dogs_vs_cats, read_cifar

CONTENT = random.Random(0).randbytes(300_000)
OTHER, SIZE = CONTENT[::-1], len(CONTENT)
MD5, SHA = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class Site(http.server.ThreadingHTTPServer):
    """Redirects, misbehaves as told, and keeps a log of the Range headers that it was sent."""

    content, status, ranges, length, shift = CONTENT, None, True, True, 0
    cuts, reset, silent = (), False, 0  # bytes for each of the first connections, and how it ends
    step, delay = 2**20, 0.0  # bytes at a time, and seconds between

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url, self.log = f"http://127.0.0.1:{self.server_port}/old/file.bin", []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def do_GET(self):
        site, asked = self.server, self.headers["Range"]
        if self.path.startswith("/old"):
            return self.head(302, Location="/new")
        site.log.append(asked)
        start, size = int(asked[6:-1]) if asked and site.ranges else 0, len(site.content)
        if site.status or start >= size:
            return self.head(site.status or 416)
        headers = {"Content_Length": size - start} if site.length else {}
        parts = {"Content_Range": f"bytes {start + site.shift}-{size - 1}/{size}"} if start else {}
        self.head(206 if start else 200, **headers, **parts)
        cut = dict(enumerate(site.cuts)).get(len(site.log) - 1)
        body = site.content[start:][:cut]
        with contextlib.suppress(ConnectionError):  # the client was killed, or has lost its patience
            for i in range(0, len(body), site.step):
                self.wfile.write(body[i : i + site.step])
                time.sleep(site.delay)
        if cut is not None:
            site.content = CONTENT
            time.sleep(site.silent)
            if site.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())  # now: a reset, no orderly end

    def log_message(self, *_):
        pass


@pytest.fixture
def sites(monkeypatch):
    for name, value in {"PAUSE": 0.001, "PATIENCE": 1, "WINDOW": 0.6, "STEP": 100_000}.items():
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
    url = urls if isinstance(urls, str) else urls[0]
    assert str(told.value).endswith(f"or download {url} with a browser and put it at {path}")
    return str(told.value)


def test_a_file_is_fetched_once(sites, path, partial):
    url, official = sites[0].url, {"size": SIZE, "md5": MD5, "sha256": SHA}
    assert "allow the download" in refused(FileNotFoundError, url, path, **official, download=False)
    assert fetch(url, path, **official) == path
    assert path.read_bytes() == CONTENT and not partial.exists()
    assert fetch(url, str(path), **official, download=False) == path and sites[0].log == [None]
    with pytest.raises(ValueError, match="in no Google Drive that is mounted"):
        fetch(url, "/content/drive/MyDrive/file.bin")


FOUR, ASKED = [5, 0, 2000, 70_000], [None, 5, 5, 2005, 72_005]
SERVERS = {  # what it does, what the last run left, what is known, the ranges that it is asked for
    "cuts off anywhere": ({"cuts": FOUR}, b"", {"md5": MD5}, ASKED),
    "does not say how much": ({"cuts": FOUR, "length": False}, b"", {"md5": MD5, "size": SIZE}, ASKED),
    "resets the connection": ({"cuts": FOUR, "reset": True}, b"", {"sha256": SHA}, None),
    "cannot resume": ({"ranges": False, "cuts": [20, 10, 0]}, b"", {"md5": MD5}, [None, 20, 10, None]),
    "sends another part": ({"shift": 5, "cuts": [1000]}, b"", {"md5": MD5}, [None, 1000, None]),
    "changes the file": ({"content": OTHER, "cuts": [1000]}, b"", {"md5": MD5}, [None, 1000, None]),
    "falls silent": ({"cuts": [12_345], "silent": 3}, b"", {"md5": MD5}, [None, 12_345]),
    "has no more than we have": ({}, CONTENT, {"md5": MD5}, []),
    "has less than we have": ({}, CONTENT + b"x", {"md5": MD5}, [SIZE + 1, None]),
    "has another file than we have": ({}, OTHER, {"sha256": SHA}, [SIZE, None]),
    "has a file of unknown hash": ({"cuts": [1000]}, b"another's", {"size": SIZE}, [None, None]),
}


@pytest.mark.parametrize("name", SERVERS)
def test_the_right_file_comes_from_a_server_that(name, sites, path, partial):
    behaviour, left, official, asked = SERVERS[name]
    vars(sites[0]).update(behaviour)
    partial.write_bytes(left)
    assert fetch(sites[0].url, path, **official).read_bytes() == CONTENT
    assert asked is None or sites[0].log == [start and f"bytes={start}-" for start in asked]


def test_progress_gives_new_tries_and_nothing_else_does(sites, path, partial, monkeypatch):
    monkeypatch.setattr(downloads, "STEP", 1000)
    for cuts, ranges in ([500] * 20, True), ([2000] * 20, False):  # too little; starts over each time
        partial.unlink(missing_ok=True)
        vars(sites[0]).update(cuts=cuts, ranges=ranges, log=[])
        refused(ConnectionError, sites[0].url, path, md5=MD5)
        assert len(sites[0].log) in (5, 6)
    vars(sites[0]).update(cuts=[1001] * 20, ranges=True, log=[])
    assert fetch(sites[0].url, path, md5=MD5).read_bytes() == CONTENT and len(sites[0].log) == 21


@pytest.mark.parametrize("official", [{"md5": SHA}, {"sha256": MD5}, {"size": 5}, {"size": SIZE + 1}])
def test_wrong_bytes_are_not_taken_for_good_nor_asked_for_for_ever(sites, path, official):
    for length, cuts in (True, []), (False, []), (True, [1000, None] * 9):
        vars(sites[0]).update(length=length, cuts=cuts, log=[])
        assert re.search("another|bytes came", refused(ConnectionError, sites[0].url, path, **official))
        assert not path.exists() and len(sites[0].log) < 7
    path.write_bytes(b"my thesis")
    assert "is not the official file: delete it" in refused(ValueError, sites[0].url, path, **official)
    assert path.read_bytes() == b"my thesis"


SLOW = {"step": 2000, "delay": 0.02}  # 100 kB/s
MIRRORS = {  # what the three do, how often each is asked, the range that the second is asked for
    "slow": ([SLOW, {}, {}], [1, 1, 0], r"bytes=\d{4,6}-"),
    "slow, as all are": ([SLOW, SLOW, SLOW], [1, 1, 1], r"bytes=\d{4,6}-"),
    "slow, but alive": ([SLOW, SLOW, {"status": 503}], [2, 1, 1], r"bytes=\d{4,6}-"),
    "silent": ([{"cuts": [12_345], "silent": 3}, {}, {}], [1, 1, 0], "bytes=12345-"),
    "cut off": ([{"cuts": [777]}, {}, {}], [1, 1, 0], "bytes=777-"),
    "not there": ([{"status": 404}, {}, {}], [1, 1, 0], "None"),
    "another file": ([{"content": OTHER}, {}, {}], [1, 1, 0], "None"),
}


@pytest.mark.parametrize("name", MIRRORS)
def test_the_next_address_goes_on_where_the_first_is(name, sites, path, monkeypatch, capsys):
    monkeypatch.setattr(downloads, "PATIENCE", 60)
    behaviours, asked, second = MIRRORS[name]
    for site, behaviour in zip(sites, behaviours):
        vars(site).update(behaviour)
    assert fetch([site.url for site in sites], path, md5=MD5).read_bytes() == CONTENT
    assert [len(site.log) for site in sites] == asked
    assert re.fullmatch(second, str(sites[1].log[0]))
    out = capsys.readouterr().out
    why = next((why for why in ("kB/s", "timed out") if f"{why}; going on" in out), "")
    assert why == ("kB/s" if "slow" in name else "timed out" if name == "silent" else "")


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
    errors, receive = (
        iter([ConnectionError("cut off"), *map(URLError, ("gone", "gone"))]),
        downloads._receive,
    )

    def flaky(*arguments, **options):
        for error in errors:
            raise error
        return receive(*arguments, **options)

    monkeypatch.setattr(downloads, "_receive", flaky)
    assert fetch(sites[0].url, path, md5=MD5).read_bytes() == CONTENT


FETCH = "import sys; from colorize_utils.files import downloads; downloads.fetch(*sys.argv[1:3], md5=sys.argv[3])"


def start(site, path, *before):
    command = [*before, sys.executable, "-c", FETCH, site.url, path, MD5]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], text=True, **pipes)


def test_what_a_killed_process_left_is_resumed(sites, path, partial):
    sites[0].step, sites[0].delay = 10_000, 0.05
    process = start(sites[0], path)
    while not partial.exists() or partial.stat().st_size < 50_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    there, sites[0].delay = partial.stat().st_size, 0
    assert fetch(sites[0].url, path, md5=MD5).read_bytes() == CONTENT
    assert sites[0].log == [None, f"bytes={there}-"] and there < SIZE


def test_on_a_full_disk_it_says_so_and_keeps_what_came(sites, path):
    mount = f"mount -t tmpfs -o size=64k tmpfs {path.parent}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount]).returncode:
        pytest.skip("this machine does not let a test mount a tiny filesystem (unshare -rm)")
    program = ["unshare", "-rm", "sh", "-c", f'{mount} && "$@" || stat -c %s {path}.partial', "sh"]
    *_, said, kept = start(sites[0], path, *program).communicate(timeout=60)[0].splitlines()
    full = f"{os.strerror(errno.ENOSPC)}: make room, or choose another folder"
    assert said == f"OSError: [Errno 28] could not fetch {path} ({full})" and 0 < int(kept) <= 2**16


def test_dogs_vs_cats_comes_once_or_is_used_as_it_is(sites, path, partial, monkeypatch):
    assert downloads.DOGS_VS_CATS["urls"].startswith("https://download.microsoft.com/download/")
    here = {"urls": sites[0].url, "size": SIZE, "sha256": SHA}
    monkeypatch.setattr(downloads, "DOGS_VS_CATS", here)
    partial.write_bytes(CONTENT[:1000])
    with pytest.raises(FileNotFoundError, match="allow the download.*with a browser"):
        fetch_dogs_vs_cats(path.parent, download=False)
    assert fetch_dogs_vs_cats(path.parent) == fetch_dogs_vs_cats(path.parent, download=False) == path
    assert path.read_bytes() == CONTENT and sites[0].log == ["bytes=1000-"]
    (path.parent / "train.zip").write_bytes(b"Kaggle's")
    assert fetch_dogs_vs_cats(path.parent) == path.parent


@pytest.fixture
def cifar(sites, tmp_path_factory, monkeypatch):
    """Turns CIFAR-100 into 1,000 pictures on localhost: two mirrors, and the official host."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-100-python"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 500, 32, 32, 3), dtype=np.uint8)
    rows, md5s = pixels.transpose(0, 1, 4, 2, 3).reshape(2, 500, -1), {}
    parts = [{"data": part, "fine_labels": [0] * 500} for part in rows] + [{"fine_label_names": ["a"]}]
    folder.mkdir()
    for name, part in zip(("train", "test", "meta"), map(pickle.dumps, parts)):
        (folder / name).write_bytes(part)
        md5s[name] = hashlib.md5(part).hexdigest()
    packed = Path(shutil.make_archive(folder, "gztar", folder.parent, folder.name)).read_bytes()
    small = {"url": sites[2].url, "filename": "small.tar.gz", "tgz_md5": hashlib.md5(packed).hexdigest()}
    small |= {f"{name}_list": [[name, md5s[name]]] for name in ("train", "test")}
    small["meta"] = {"filename": "meta", "key": "fine_label_names", "md5": md5s["meta"]}
    for name, value in small.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR100, name, value)
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


def test_cifar_that_cannot_come_names_the_ways_out(cifar, sites, tmp_path, monkeypatch):
    def half(archive, folder):
        Path(folder, "cifar-100-python").mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refused(kind, says, **options):
        with pytest.raises(kind, match=says):
            read_cifar("cifar100", tmp_path, **options)

    by_hand, packed = tmp_path / "small.tar.gz", sites[0].content
    ways = (
        f"or download .*with a browser and put it at {by_hand}; or take .sample., which needs no network"
    )
    refused(FileNotFoundError, f"allow the download, {ways}", download=False)
    for site in sites:
        site.stop()
    refused(ConnectionError, f"could not download small.tar.gz .*{ways}")
    by_hand.write_bytes(b"not the archive")
    refused(ValueError, f"small.tar.gz is not the official file: delete it and run again, {ways}")
    by_hand.write_bytes(packed)
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets.utils, "extract_archive", half)
        refused(OSError, "could not unpack .*small.tar.gz .*: make room")
    assert np.array_equal(read_cifar("cifar100", tmp_path, download=False), cifar)


def test_a_read_only_folder_is_read_from_and_named_where_it_must_be_written_to(cifar):
    user = os.geteuid()
    with (
        tempfile.TemporaryDirectory() as root
    ):  # tmp_path lies below folders that only its owner may enter
        read_cifar("cifar100", root)
        Path(root, "empty").mkdir(mode=0o555)
        os.chmod(root, 0o555)
        os.seteuid(65534) if user == 0 else None  # root may write everywhere
        try:
            assert np.array_equal(read_cifar("cifar100", root), cifar)
            with pytest.raises(
                PermissionError, match="written to .*denied: .*choose a folder that you may"
            ):
                read_cifar("cifar100", f"{root}/empty")
        finally:
            os.seteuid(user)
