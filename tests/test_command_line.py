"""`python -m colorize_utils`, as a user types it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorize_utils import __main__ as command_line

COMMAND = [sys.executable, "-m", "colorize_utils"]
ROOT = Path(__file__).resolve().parents[1]


def run(*arguments, **options):
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def test_prepare_says_what_it_made_and_what_it_left_out_on_any_terminal(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(60):
        pixels = np.full((30, 40, 3), (4 * i, 0, 99), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "кот.jpg").write_bytes(b"")
    narrow = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = run("prepare", tmp_path / "photos", "--image-size", 24, "--root", tmp_path, env=narrow)
    assert done.returncode == 0, done.stderr
    assert r"\u043a\u043e\u0442.jpg: " in done.stdout
    assert "train: " in done.stdout and "pictures of (24, 24), 0 MB" in done.stdout
    assert len(list((tmp_path / "stores").glob("photos_*_24px/pictures.npy"))) == 1


MISTAKES = [("nothing", "no data set is called 'nothing'"), ("sample --image-size 128", "too few for --image-size 128"),
            ("cifar10 --image-size 64", "there is no --image-size 64"), ("/content/drive/x", "in no Google Drive that is"),
            ("tests --image-size 0", "--image-size has to be 1 or more"),
            ("cifar10 --root $X/y", "$X/y: $X stands for nothing")]  # fmt: skip


@pytest.mark.parametrize("arguments, says", MISTAKES, ids=str)
def test_mistakes_get_one_line_in_the_words_of_the_command(arguments, says, tmp_path):
    done = run("prepare", "--root", tmp_path, *arguments.split())
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert says in done.stderr and "image_size" not in done.stderr and os.listdir(tmp_path) == []


ENDS = [(KeyboardInterrupt(), 130, "stopped: run the same command again to go on\n"),
        (OSError(errno.EROFS, "nothing can be written there"), 1, "nothing can be written there\n")]  # fmt: skip


@pytest.mark.parametrize("error, code, says", ENDS, ids=repr)
def test_what_stops_it_is_told_without_a_traceback(error, code, says, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "load_images", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(SystemExit) as end:
        command_line.main(["prepare", "sample"])
    assert end.value.code == code and capsys.readouterr().err == says
