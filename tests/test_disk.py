"""Places, locks and advice, with the system's own errors wherever this machine can make them."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from colorize_utils.files import disk

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = r"~/runs ~user/x $HOME/x a/${HOME}/x %USERPROFILE%/x https://x.org/x gs://x C:\x".split()
GONE = ["/content/drive", "/content/gdrive/x", "/content/Google Drive/x", "/content/drive/My Drive/x", "/g/MyDrive/x",
        "/content/x/Shareddrives/x", "drive/MyDrive/x", "x/../drive/MyDrive", "/g/Shared drives/x", "link/x"]  # fmt: skip
MEANT = ["data/runs", "x~/y", "/content/course/data", "/content/drives/x", "/tmp/a$/b", "here/MyDrive/x"]


def test_a_place_that_only_looks_like_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here/MyDrive").mkdir(parents=True)
    Path("link").symlink_to("/content/drive/MyDrive")
    for places, says in (NOWHERE, "write the whole path"), (GONE, "in no Google Drive that is mounted"):
        for place in places:
            with pytest.raises(ValueError, match=says):
                print(disk.place(place))
    assert [disk.place(place) for place in MEANT] == [Path(os.path.abspath(place)) for place in MEANT]


MOUNTS = """mount -t tmpfs tmpfs "$1" && cd "$1" && for name in $(ls /); do
  if [ -L /$name ]; then cp -P /$name .; elif [ -d /$name ]; then mkdir $name; mount --rbind /$name $name; fi
done && mkdir -p content/gdrive content/drive/MyDrive read_only full && mount -t tmpfs tmpfs content/gdrive &&
mount -t tmpfs -o ro tmpfs read_only && mount -t tmpfs -o size=64k tmpfs full && mkdir content/gdrive/MyDrive && shift && exec chroot . "$@" """
TRIES = {
    "place('/content/gdrive/MyDrive/x')": "PosixPath('/content/gdrive/MyDrive/x')",
    "place('/content/drive/MyDrive/x')": "in no Google Drive that is mounted",
    "write_whole('/read_only/x', b'')": "/read_only/x (Read-only file system: choose a folder",
    "locked('/read_only/x').__enter__()": "nothing can be written to /read_only (Read-only file",
    "write_whole('/full/x', bytes(70_000))": "/full/x (No space left on device: make room",
}
TRY = "try: print(repr(disk.{}))\nexcept (OSError, ValueError) as error: print(error)\n"


def test_a_mounted_drive_is_a_place_and_a_read_only_or_full_one_is_named(tmp_path):
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path]).returncode:
        pytest.skip("this machine does not let a test mount anything (unshare -rm)")
    program = "from colorize_utils.files import disk\n" + "".join(map(TRY.format, TRIES))
    command = ["unshare", "-rm", "sh", "-c", MOUNTS, "sh", tmp_path, sys.executable, "-c", program]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, env=env, capture_output=True, text=True).stdout.splitlines()
    assert [says in line for says, line in zip(TRIES.values(), said)] == [True] * len(TRIES), said


ADVICE = [("ENOSPC", 0, "make room"), ("EIO", 0, "mount it"), ("ENOTCONN", 0, "mount it"), ("EACCES", 0, "permissions"),
          ("EACCES", 32, "close that"), ("EACCES", 21, "mount it"), ("ENOTDIR", 0, "another path")]  # fmt: skip


def test_each_kind_of_error_gets_its_own_advice_once():
    for name, windows, advice in ADVICE:
        error = OSError(getattr(errno, name), "why")
        error.winerror = windows  # as on Windows, which gives EACCES to all kinds
        assert disk.because(error).startswith("why: ") and advice in disk.because(error)
        assert disk.because(OSError(error.errno, disk.because(error))) == disk.because(error)
    assert disk.because(OSError(errno.EINVAL, "why")) == disk.because(OSError("why")) == "why"


def test_a_lock_is_waited_for_or_refused_or_done_without(tmp_path, capsys, monkeypatch):
    with open(tmp_path / "it.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as another process would
        with pytest.raises(BlockingIOError, match="a training is at work"):
            disk.locked(tmp_path / "it.lock", "a training is at work").__enter__()
        threading.Timer(0.2, other.close).start()
        with disk.locked(tmp_path / "it.lock"):
            assert other.closed
    assert "another process is at work on it: waiting" in capsys.readouterr().out
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "as on NFS")))
    with disk.locked(tmp_path / "it.lock"):
        assert "has no locks: do not work there with two processes" in capsys.readouterr().out


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, gone = tmp_path / "new" / "it", OSError(errno.ENOTCONN, "Transport is not connected")
    disk.write_whole(path, b"before")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=gone))
    with pytest.raises(OSError, match="could not write .*it .*: the drive is gone: mount it again"):
        disk.write_whole(path, b"after")
    assert path.read_bytes() == b"before" and os.listdir(path.parent) == ["it"]
