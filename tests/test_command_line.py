"""`python -m colorize_utils`, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments):
    command = [sys.executable, "-m", "colorize_utils", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_prepare_says_what_it_made_and_what_it_left_out(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(60):
        pixels = np.full((30, 40, 3), (4 * i, 0, 99), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    Image.new("L", (30, 40)).save(tmp_path / "photos" / "grey.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"")
    done = run("prepare", tmp_path / "photos", "--image-size", 24, "--root", tmp_path, "--skip-grey")
    assert done.returncode == 0, done.stderr
    assert "found 62 pictures, used 60, left out 2" in done.stdout
    assert "broken.jpg: not a picture" in done.stdout and "grey.png: no colour" in done.stdout
    assert "train: " in done.stdout and "pictures of (24, 24)" in done.stdout
    assert len(list((tmp_path / "stores").glob("photos_*_24px_color/pictures.npy"))) == 1


def test_mistakes_get_one_line(tmp_path):
    done = run("prepare", tmp_path / "nothing", "--root", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("no data set is called")
    assert "Traceback" not in done.stderr
    done = run("prepare", "cifar10", "--image-size", 64, "--root", tmp_path)
    assert done.returncode == 1 and "set IMAGE_SIZE = 32" in done.stderr
    assert run("colour").returncode == 2


def test_names_that_the_terminal_cannot_show_do_not_stop_it(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(60):
        Image.new("RGB", (9, 9), (i, 0, 99)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "кот.jpg").write_bytes(b"")
    command = [
        sys.executable,
        "-m",
        "colorize_utils",
        "prepare",
        tmp_path / "photos",
        "--root",
        tmp_path,
    ]
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True)
    assert done.returncode == 0 and rb"\u043a\u043e\u0442.jpg: not a picture" in done.stdout, done
