import concurrent.futures
import errno
import hashlib
import http.server
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from colorize_utils.data import load_images
from colorize_utils.files import downloads
from colorize_utils.files.downloads import fetch, fetch_dogs_vs_cats

CONTENT = random.Random(0).randbytes(300_000)
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.001)


def md5_of(content) -> str:
    return hashlib.md5(content).hexdigest()


class Site:
    """A server on localhost that misbehaves as told, and keeps a log of the Range headers that it was sent."""

    def __init__(self, content=CONTENT):
        self.content, self.ranges, self.length, self.reset = content, True, True, False
        self.cuts = []  # how many bytes each of the first connections gets
        self.log, self.sent = [], 0
        self.before = lambda connection: None  # called before each answer
        self.after = lambda connection: None  # called where a connection was cut, before it closes
        self.step, self.delay = 2**20, 0.0  # bytes at a time, and seconds between

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):
                self.log.append(handler.headers["Range"])
                try:
                    self.before(len(self.log))
                    self.answer(handler)
                except ConnectionError:  # the client was killed or has lost its patience
                    pass

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/file.bin"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler):
        if handler.path == "/old":
            return self.head(handler, 302, Location="/file.bin")
        if handler.path != "/file.bin":
            return handler.send_error(int(handler.path[1:]))
        start, all_of_it = 0, len(self.content)
        if handler.headers["Range"] and self.ranges:
            start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= all_of_it:
                return self.head(handler, 416, Content_Range=f"bytes */{all_of_it}")
        length = {"Content_Length": all_of_it - start} if self.length else {}
        if start:
            length["Content_Range"] = f"bytes {start}-{all_of_it - 1}/{all_of_it}"
        self.head(handler, 206 if start else 200, **length)
        cut = self.cuts.pop(0) if self.cuts else None
        body = self.content[start:][:cut]
        for i in range(0, len(body), self.step):
            handler.wfile.write(body[i : i + self.step])
            self.sent += len(body[i : i + self.step])
            time.sleep(self.delay)
        if cut is not None:
            self.after(len(self.log))
            if self.reset:
                linger = struct.pack("ii", 1, 0)
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                os.close(handler.connection.detach())  # now: a reset, no orderly end

    def head(self, handler, status, **headers):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.stop()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "file.bin"


def partial_of(path):
    return path.with_name("file.bin.partial")


def refused(error, url, path, **options):
    """What `fetch` says when it fails, which always names the way by hand."""
    with pytest.raises(error) as told:
        fetch(url, path, **options)
    assert str(told.value).endswith(f"or download {url} with a browser and put it at {path}")
    assert not path.exists() or error is ValueError
    return str(told.value)


# ---- the right file ----


def test_a_file_is_fetched_once(site, path):
    official = {
        "size": len(CONTENT),
        "md5": md5_of(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    assert fetch(site.url, path, **official) == path
    assert path.read_bytes() == CONTENT and not partial_of(path).exists()
    site.stop()
    assert fetch(site.url, str(path), **official) == path
    assert site.log == [None]


def test_a_redirect_is_followed_by_every_part(site, path):
    site.cuts = [1000]
    url = site.url.replace("file.bin", "old")
    assert fetch(url, path, md5=md5_of(CONTENT)).read_bytes() == CONTENT
    assert site.log == [None, None, "bytes=1000-", "bytes=1000-"]


def test_a_slow_server_is_waited_for_while_bytes_come(site, path):
    site.content, site.step, site.delay = CONTENT[:100], 10, 0.08
    fetch(site.url, path, md5=md5_of(CONTENT[:100]), patience=0.4)  # in all it takes twice as long
    assert site.log == [None]


def test_a_silent_server_is_cut_off_and_resumed(site, path):
    silent = threading.Event()
    site.cuts, site.after = [12_345], lambda _: silent.wait(10)
    before = time.monotonic()
    fetch(site.url, path, md5=md5_of(CONTENT), patience=0.2)
    assert 0.2 <= time.monotonic() - before < 5
    silent.set()
    assert path.read_bytes() == CONTENT
    assert site.log == [
        None,
        "bytes=12345-",
    ]  # what had come before the silence was kept to the last byte


def test_a_server_that_never_answers_is_given_up(site, path):
    silent = threading.Event()
    site.before = lambda _: silent.wait(10)
    assert "cut off 2 times in a row, at last: timed out" in refused(
        ConnectionError, site.url, path, patience=0.1, tries=2
    )
    silent.set()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("length", [False, True])
def test_cut_off_anywhere_it_goes_on_there(site, path, reset, length):
    chance = random.Random(1)
    for name in range(5):
        site.cuts = [chance.randrange(len(CONTENT) // 4) for _ in range(4)]
        site.reset, site.length, site.sent, site.log = reset, length, 0, []
        file = path.with_name(str(name))
        assert fetch(site.url, file, size=len(CONTENT), md5=md5_of(CONTENT)).read_bytes() == CONTENT
        assert len(site.log) == 5
        assert reset or site.sent == len(CONTENT)  # nothing came twice; a reset drops what is on its way


def test_a_server_that_cannot_resume_starts_over(site, path):
    site.ranges, site.cuts = False, [200_000, 100_000, 0]
    assert fetch(site.url, path, md5=md5_of(CONTENT)).read_bytes() == CONTENT
    assert site.log == [None, "bytes=200000-", "bytes=100000-", None]


def test_a_server_that_sends_another_part_makes_it_start_over(site, path, monkeypatch):
    right = site.head

    def wrong(handler, status, **headers):
        if status == 206:  # the part begins 5 bytes later than asked for, and the header says so
            headers["Content_Range"] = re.sub(
                r"\d+", lambda n: str(int(n[0]) + 5), headers["Content_Range"], count=1
            )
        right(handler, status, **headers)

    monkeypatch.setattr(site, "head", wrong)
    site.cuts = [1000]
    assert fetch(site.url, path, md5=md5_of(CONTENT)).read_bytes() == CONTENT
    assert site.log == [None, "bytes=1000-", None]


def test_a_file_that_changed_between_two_parts_is_fetched_whole(site, path):
    site.content, site.cuts = CONTENT[::-1], [1000]

    def change(connection):
        site.content = CONTENT

    site.after = change
    assert fetch(site.url, path, size=len(CONTENT), md5=md5_of(CONTENT)).read_bytes() == CONTENT
    assert site.log == [None, "bytes=1000-", None]


def test_a_server_whose_parts_never_fit_is_given_up(site, path):
    site.content, site.cuts = CONTENT[::-1], [1000, None, 1000]
    assert "not the official file" in refused(ConnectionError, site.url, path, md5=md5_of(CONTENT))
    assert site.log == [None, "bytes=1000-"] * 2 and not partial_of(path).exists()


@pytest.mark.parametrize(
    "left", [CONTENT, CONTENT + b"x", CONTENT[::-1]], ids=["whole", "longer", "other"]
)
def test_a_part_left_behind_as_long_as_the_file_is_judged_by_its_hash(site, path, left):
    path.parent.mkdir()
    partial_of(path).write_bytes(left)
    assert fetch(site.url, path, md5=md5_of(CONTENT)).read_bytes() == CONTENT
    assert site.log == [f"bytes={len(left)}-"] + [None] * (left != CONTENT)


def test_without_a_hash_nothing_is_resumed(site, path):
    path.parent.mkdir()
    partial_of(path).write_bytes(b"of another file")
    site.cuts = [1000]
    assert fetch(site.url, path, size=len(CONTENT)).read_bytes() == CONTENT
    assert site.log == [None, None]


def test_every_mebibyte_of_progress_gives_new_tries_and_nothing_else_does(site, path):
    site.content = random.Random(2).randbytes(5 * 2**20)
    site.cuts = [2**20 + 10] * 4
    fetch(site.url, path, md5=md5_of(site.content), tries=2)
    assert len(site.log) == 5

    second, site.cuts, site.log = path.with_name("second"), [1000] * 50, []
    refused(ConnectionError, site.url, second, md5=md5_of(site.content), tries=3)
    assert len(site.log) == 3
    third, site.cuts, site.log, site.ranges = path.with_name("third"), [2 * 2**20] * 50, [], False
    refused(ConnectionError, site.url, third, md5=md5_of(site.content), tries=3)
    assert len(site.log) == 3  # it starts over each time: two MiB again and again are no progress


# ---- errors ----


@pytest.mark.parametrize(
    "official", [{"md5": md5_of(b"it")}, {"sha256": "0" * 64}, {"size": 5}, {"size": 300_001}]
)
def test_wrong_bytes_are_not_taken_for_good(site, path, official):
    assert "not the official file" in refused(ConnectionError, site.url, path, **official)
    assert not partial_of(path).exists()
    assert site.log == [None]


def test_wrong_bytes_of_unknown_length_are_not_taken_for_good(site, path):
    site.length = False
    assert "not the official file" in refused(ConnectionError, site.url, path, size=len(CONTENT) - 1)
    assert not partial_of(path).exists()


def test_a_page_in_place_of_the_file_spares_what_is_there(site, path):
    path.parent.mkdir()
    partial_of(path).write_bytes(CONTENT[:1000])
    site.content, site.ranges = b"<html>Please log in", False
    assert "19 bytes instead of 300000" in refused(
        ConnectionError, site.url, path, size=len(CONTENT), md5=md5_of(CONTENT)
    )
    assert partial_of(path).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_names_its_code(site, path, status):
    url = site.url.replace("file.bin", str(status))
    assert f"the server answers {status}" in refused(ConnectionError, url, path)
    assert site.log == [None]  # and is not asked again


def test_nothing_listening_is_told_at_once(site, path, monkeypatch):
    site.stop()
    monkeypatch.setattr(downloads, "PAUSE", 60)
    assert re.search("no connection: .*Check the network", refused(ConnectionError, site.url, path))


def test_a_network_that_goes_away_is_tried_again(site, path):
    site.cuts, site.after = [1000], lambda _: site.stop()
    assert "cut off 3 times in a row" in refused(
        ConnectionError, site.url, path, md5=md5_of(CONTENT), tries=3
    )
    assert partial_of(path).read_bytes() == CONTENT[:1000]


def test_another_file_at_the_place_is_named_and_left_alone(site, path):
    path.parent.mkdir()
    path.write_bytes(b"my thesis")
    for official in {"size": len(CONTENT)}, {"md5": md5_of(CONTENT)}, {"sha256": "0" * 64}:
        assert f"{path} is not the official file" in refused(ValueError, site.url, path, **official)
    assert path.read_bytes() == b"my thesis" and site.log == []
    assert fetch(site.url, path) == path and site.log == []  # nothing is known of it but its name
    path.unlink()
    path.mkdir()
    assert "delete it" in refused(ValueError, site.url, path)


def test_a_folder_that_cannot_be_written_to_is_named_but_read_from(site):
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # tmp_path lies below folders that only its owner may enter
        path, there, user = Path(folder) / "file.bin", Path(folder) / "there", os.geteuid()
        there.write_bytes(CONTENT)
        os.chmod(folder, 0o555)
        os.seteuid(65534) if user == 0 else None  # root may write everywhere
        try:
            assert f"could not write {folder}" in refused(PermissionError, site.url, path)
            assert fetch(site.url, there, md5=md5_of(CONTENT)) == there
        finally:
            os.seteuid(user)


# ---- other processes ----

SCRIPT = """
import errno, json, sys
from colorize_utils.files import downloads
url, path, md5 = sys.argv[1:]
print("ready", flush=True)
try:
    downloads.fetch(url, path, md5=md5)
    print(json.dumps(["fetched", None, None]))
except OSError as error:
    print(json.dumps([type(error).__name__, error.errno, str(error)]))
"""


def start(site, path, before=()):
    command = [*before, sys.executable, "-c", SCRIPT, site.url, path, md5_of(site.content)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen within 20 s"
        time.sleep(0.01)


def test_what_a_killed_process_left_is_resumed(site, path):
    site.step, site.delay = 10_000, 0.02
    process = start(site, path)
    wait_for(lambda: partial_of(path).exists() and partial_of(path).stat().st_size >= 50_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there, site.delay = partial_of(path).stat().st_size, 0
    assert 50_000 <= there < len(CONTENT) and not path.exists()
    assert fetch(site.url, path, md5=md5_of(CONTENT)).read_bytes() == CONTENT
    assert site.log == [None, f"bytes={there}-"]


def test_two_processes_fetch_it_once(site, path):
    gate = threading.Event()
    site.before = lambda _: gate.wait(20)
    both = [start(site, path), start(site, path)]
    wait_for(lambda: site.log)
    time.sleep(0.3)  # the other one would ask, too
    gate.set()
    assert [json.loads(process.communicate(timeout=20)[0])[0] for process in both] == ["fetched"] * 2
    assert path.read_bytes() == CONTENT and site.log == [None]


def test_on_a_full_disk_it_says_what_is_needed_and_goes_on_later(site, tmp_path):
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    mount = f"mount -t tmpfs -o size=64k tmpfs {tiny}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount]).returncode:
        pytest.skip(
            "this machine does not let a test mount a tiny filesystem (unshare -rm; mount -t tmpfs)"
        )
    twice = f'{mount} && "$@" && stat -c %s {tiny}/* && mount -o remount,size=1m {tiny} && "$@" && md5sum {tiny}/file.bin'
    process = start(site, tiny / "file.bin", ["unshare", "-rm", "sh", "-c", twice, "sh"])
    out = process.communicate(timeout=20)[0].splitlines()
    kind, number, says = json.loads(out[0])
    assert (kind, number) == ("OSError", errno.ENOSPC)
    assert f"could not write {tiny}/file.bin.partial" in says and "needs 300000 bytes" in says
    assert says.endswith(f"or download {site.url} with a browser and put it at {tiny}/file.bin")
    lock, kept = map(int, out[1:3])
    assert lock == 0 and 0 < kept <= 2**16
    assert out[3:] == ["ready", '["fetched", null, null]', f"{md5_of(CONTENT)}  {tiny}/file.bin"]
    assert site.log == [None, f"bytes={kept}-"]


# ---- Dogs vs. Cats ----


@pytest.fixture
def dogs(site, monkeypatch):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(
        downloads, "DOGS_VS_CATS", {"url": site.url, "size": len(CONTENT), "sha256": sha256}
    )
    return site


def test_dogs_vs_cats_comes_once_into_its_folder(dogs, path):
    with pytest.raises(FileNotFoundError, match="Allow the download.*with a browser"):
        fetch_dogs_vs_cats(path.parent, download=False)
    path.parent.mkdir()
    partial_of(path).write_bytes(CONTENT[:1000])
    assert fetch_dogs_vs_cats(path.parent) == fetch_dogs_vs_cats(path.parent, download=False) == path
    assert path.read_bytes() == CONTENT and dogs.log == ["bytes=1000-"]
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="not the official file"):
        fetch_dogs_vs_cats(path.parent)


def test_dogs_and_cats_put_there_by_hand_are_used(dogs, tmp_path):
    (tmp_path / "train.zip").write_bytes(b"Kaggle's")
    assert fetch_dogs_vs_cats(tmp_path) == tmp_path and dogs.log == []


def test_the_official_dogs_vs_cats_is_pinned():
    official = downloads.DOGS_VS_CATS
    assert official["url"].startswith("https://download.microsoft.com/") and official["size"] > 8e8
    assert re.fullmatch("[0-9a-f]{64}", official["sha256"])


# ---- CIFAR: a small archive of the official layout ----


@pytest.fixture
def cifar(site, monkeypatch):
    """A data set like CIFAR-100, whose archive the site offers; `cifar.pictures` are its contents."""
    rng, base = np.random.default_rng(0), "cifar-100-python"

    class Small(torchvision.datasets.CIFAR100):
        url, filename = site.url, "small.tar.gz"
        pictures = {
            "train": rng.integers(0, 256, (5100, 32, 32, 3), dtype=np.uint8),
            "test": rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8),
        }

    files, packed = {"meta": pickle.dumps({"fine_label_names": ["a"]})}, io.BytesIO()
    for part, pictures in Small.pictures.items():
        rows = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
        files[part] = pickle.dumps({"data": rows, "fine_labels": [0] * len(rows)})
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{base}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    site.content = packed.getvalue()
    Small.train_list, Small.test_list = (
        [["train", md5_of(files["train"])]],
        [["test", md5_of(files["test"])]],
    )
    Small.meta = {"filename": "meta", "key": "fine_label_names", "md5": md5_of(files["meta"])}
    Small.tgz_md5 = md5_of(site.content)
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Small)
    return Small


def test_cifar_is_downloaded_checked_split_and_kept(cifar, site, tmp_path):
    site.cuts = [10_000_000]
    images = load_images("cifar100", tmp_path)
    assert site.log == [None, "bytes=10000000-"]
    assert [len(part) for part in images] == [100, 5000, 40]
    expected = torch.from_numpy(cifar.pictures["train"]).permute(0, 3, 1, 2)
    assert torch.equal(torch.cat([images.train, images.validation]), expected)
    site.stop()
    again = load_images("cifar100", tmp_path, download=False)
    assert torch.equal(again.test, images.test)


def test_two_readers_of_an_absent_cifar_do_no_harm(cifar, site, tmp_path):
    gate = threading.Event()
    site.before = lambda _: gate.wait(20)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(load_images, "cifar100", tmp_path) for _ in range(2)]
        wait_for(lambda: site.log)
        gate.set()
        assert [len(reader.result().test) for reader in both] == [40, 40]
    assert site.log == [None]


def test_absent_cifar_without_download_names_the_next_step(cifar, site, tmp_path):
    with pytest.raises(FileNotFoundError, match="with a browser.*DATA = .sample."):
        load_images("cifar100", tmp_path, download=False)
    assert site.log == []


FAILED = "could not download cifar100: .*Check the network.*with a browser.*DATA = .sample."


def test_no_network_names_the_next_step(cifar, site, tmp_path):
    site.stop()
    with pytest.raises(ConnectionError, match=FAILED):
        load_images("cifar100", tmp_path)


def test_an_archive_of_wrong_bytes_is_not_taken_for_good(cifar, site, tmp_path):
    site.content = b"not the archive"
    with pytest.raises(ConnectionError, match=FAILED):
        load_images("cifar100", tmp_path)
    assert not (tmp_path / cifar.filename).exists()


def test_an_archive_cut_short_is_not_taken_for_good(cifar, site, tmp_path):
    site.cuts = [1000] * 5
    with pytest.raises(ConnectionError, match=FAILED):
        load_images("cifar100", tmp_path)
    assert len(load_images("cifar100", tmp_path).test) == 40  # the next run goes on
    assert site.log[-1] == "bytes=5000-"


def test_an_archive_put_there_by_hand_is_checked_and_unpacked(cifar, site, tmp_path):
    (tmp_path / cifar.filename).write_bytes(b"not the archive")
    with pytest.raises(ValueError, match="small.tar.gz is not the official file.*delete it"):
        load_images("cifar100", tmp_path)
    (tmp_path / cifar.filename).write_bytes(site.content)
    assert len(load_images("cifar100", tmp_path).test) == 40 and site.log == []


def test_a_disk_that_fills_while_unpacking_leaves_no_half_file(cifar, tmp_path, monkeypatch):
    unpack = torchvision.datasets.utils.extract_archive

    def full(archive, folder):
        unpack(archive, folder)
        (Path(folder) / "cifar-100-python" / "test").unlink()
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(ConnectionError, match="could not unpack .*No space"),
    ):
        patch.setattr(torchvision.datasets.utils, "extract_archive", full)
        load_images("cifar100", tmp_path)
    assert not (tmp_path / "cifar-100-python").exists()
    assert len(load_images("cifar100", tmp_path).test) == 40


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_changed_file_on_disk_is_named_and_left_alone(cifar, tmp_path, name):
    load_images("cifar100", tmp_path)
    path = tmp_path / "cifar-100-python" / name
    changed = path.read_bytes()[:-1] + b"x"
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=f"{name} is not the official file.*delete the folder"):
        load_images("cifar100", tmp_path)
    assert path.read_bytes() == changed
