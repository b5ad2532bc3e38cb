"""`python -m colorize_utils`, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image

from colorize_utils import __main__ as command_line

ROOT = Path(__file__).resolve().parents[1]


def test_prepare_says_what_it_made_and_what_it_left_out_on_any_terminal(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(60):
        Image.new("RGB", (40, 30), (4 * i, 0, 99)).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "кот.jpg").write_bytes(b"")
    command = [sys.executable, "-m", "colorize_utils", "prepare", "photos", "--image-size", "24"]
    env = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "left out 1" in done.stdout and r"\u043a\u043e\u0442.jpg: " in done.stdout
    assert "train: " in done.stdout and "pictures of (24, 24), 0 MB" in done.stdout
    assert len(list((tmp_path / "data" / "stores").glob("photos_*_24px/pictures.npy"))) == 1


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        command_line.main(["prepare", *arguments])
    return end.value.code, capsys.readouterr().err


MISTAKES = {
    "/content/drive/x": "in no Google Drive that is",
    "cifar10 --image-size 64": "there is no --image-size 64",
    "tests --image-size 0": "--image-size has to be 1 or more",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistakes_get_one_line_in_the_words_of_the_command(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, said = ended(capsys, "--root", str(tmp_path), *arguments.split())
    assert code == 1 and said.count("\n") == 1 and MISTAKES[arguments] in said
    assert "image_size" not in said and os.listdir(tmp_path) == []


def test_what_stops_it_is_told_without_a_traceback(monkeypatch, capsys):
    stops = Mock(side_effect=[KeyboardInterrupt(), OSError(30, "no place to write")])
    monkeypatch.setattr(command_line, "load_images", stops)
    assert ended(capsys, "sample") == (130, "stopped: run the same command again to prepare them\n")
    assert ended(capsys, "sample") == (1, "no place to write\n")
