import hashlib
import re
import shutil
import socket
from types import SimpleNamespace

import lessons as tool
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from colorize_utils import data
from colorize_utils.data import SEEN, UNSEEN, chroma, is_grey, load_images, photograph
from colorize_utils.files.pictures import read_square
from colorize_utils.files.sets import name_hash, part_of


def test_the_sample_needs_no_network_and_is_always_the_same(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    images, again, other = load_images(), load_images("sample"), load_images("sample", seed=1)
    assert [tuple(part.shape) for part in images] == [(n, 3, 32, 32) for n in (1500, 300, 300)]
    assert all(torch.equal(a, b) for a, b in zip(images, again))
    assert not torch.equal(images.train, other.train) and not set(SEEN) & set(UNSEEN)
    means = [part.float().mean().item() for part in images]  # all stored results are of these
    assert means == pytest.approx([96.991, 88.072, 110.8], abs=0.01)
    assert np.array_equal(photograph("coffee").permute(1, 2, 0), skimage.data.coffee())
    assert np.array_equal(photograph("camera"), [skimage.data.camera()] * 3)  # grey as RGB


def test_parts_of_the_sample_share_no_pixel(monkeypatch):
    strips = torch.tensor([10] * 320 + [200] * 80).byte().expand(3, 300, 400)
    monkeypatch.setattr(data, "photograph", lambda name: strips + (name in UNSEEN))
    ranges = [(part.min().item(), part.max().item()) for part in load_images("sample")]
    assert ranges == [(10, 10), (200, 200), (11, 201)]


def test_squares_come_from_the_photograph_at_every_scale():
    ramp = torch.arange(200).repeat(200, 1).byte().expand(3, -1, -1)  # a value per column
    squares = data.random_squares(ramp, 200, 16, torch.Generator().manual_seed(0)).float()
    assert (squares[:, :, 1:-1] - squares[:, :, 2:3]).abs().max() <= 1  # columns stay columns
    side = (squares[:, 0, 0, -1] - squares[:, 0, 0, 0]) * 16 / 15
    assert side.min() < 36 and side.max() > 170
    assert squares.min() < 10 and squares.max() > 185  # near both borders
    small = torch.zeros(3, 5, 9, dtype=torch.uint8)
    assert data.random_squares(small, 2, 16, torch.Generator()).shape == (2, 3, 16, 16)


def test_is_grey():
    pictures = torch.tensor([[90, 10, 50], [7, 7, 7], [102, 100, 100], [103, 100, 100]]).byte()
    pictures = pictures.view(4, 3, 1, 1).repeat(100, 1, 2, 1)
    pictures[0, :, 0] = 0  # half of it is black
    assert chroma(pictures).tolist() == [40, 0, 2, 3] + [80, 0, 2, 3] * 99
    assert is_grey(pictures).tolist() == [False, True, True, False] * 100
    assert is_grey(pictures, tolerance=0).tolist() == [False, True, False, False] * 100


def test_the_real_cifar100(real_cifar100):  # tests/test_downloads.py fetches a small one
    images = load_images("cifar100", real_cifar100, download=False)
    hashes = [hashlib.sha256(part.numpy().tobytes()).hexdigest()[:12] for part in images]
    assert hashes == ["ac2b6e3c4521", "cfb475df17ab", "83c56492b2c1"]
    assert is_grey(torch.cat(images[:2])).sum() == 950


def test_the_plain_lines_of_the_lesson_read_what_they_say(tmp_path, monkeypatch):
    """Its fenced code, pasted into an empty file: CIFAR-100 (a small one), then a folder of JPEGs."""
    text = "\n".join(cell.source for cell in tool.read(next(iter(tool.chosen("01")))).cells)
    cifar, jpegs = re.findall(r"```python\n(.+?)```", text.partition("## 3.")[2], re.S)[:2]
    rows = np.random.default_rng(0).integers(0, 256, (5100, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr("torchvision.datasets.CIFAR100", lambda *_, **__: SimpleNamespace(data=rows))
    exec(cifar, found := {})
    assert (
        np.array_equal(found["train"], rows[:100].transpose(0, 3, 1, 2))
        and len(found["validation"]) == 5000
    )
    (folder := tmp_path / "data" / "dogs-vs-cats" / "Cat").mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(rows[0]).resize((300, 200)).save(folder / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    exec(jpegs, found := {})
    assert found["pixels"].shape == (2, 3, 128, 128)
    assert np.abs(found["pixels"][1].numpy() - 1.0 * read_square(folder / "b.jpg", 128)).mean() < 3


@pytest.fixture
def folder(tmp_path):
    for i in range(60):
        place = tmp_path / "photos" / ("cats", "dogs")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (i, 9, 200)).save(place / f"{i}.png")
    return tmp_path / "photos"


def test_parts_and_order_depend_on_the_names_alone(folder, tmp_path, capsys):
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    images = load_images(folder, tmp_path / "data", image_size=16)
    for k, part in enumerate(images):
        inside = sorted((name for name in names if part_of(name) == k), key=name_hash)
        assert np.array_equal(part, np.stack([read_square(folder / name, 16) for name in inside]))
    (store,) = (tmp_path / "data" / "stores").glob("photos_*_16px")
    assert np.array_equal(np.load(store / "pictures.npy"), torch.cat(images))  # all from the disk
    counts = np.bincount([part_of(f"cat.{i}.jpg") for i in range(20_000)]) / 20_000
    assert counts == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    (folder / "text.png").write_text("not a picture")
    assert sum(map(len, load_images(folder, tmp_path, image_size=16))) == 60
    assert "used 60, left out 1\n  text.png: not a picture" in capsys.readouterr().out


def test_dogs_vs_cats_lies_below_the_root(folder, tmp_path):
    place = folder.rename(tmp_path / "dogs-vs-cats")
    images = load_images("dogs-vs-cats", tmp_path, image_size=16, download=False)
    packed = shutil.make_archive(tmp_path / "celeba", "zip", place)
    shutil.rmtree(place)
    place.mkdir()
    shutil.copy(packed, place / "train.zip")
    (place / "labels.csv").write_text("0")
    for name in ("dogs-vs-cats", "celeba.zip"):  # packed; as data/celeba.zip
        again = load_images(name, tmp_path, image_size=16, download=False)
        assert all(torch.equal(a, b) for a, b in zip(images, again))


def test_what_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "one" / "a.png")
    (tmp_path / "grey").mkdir()
    for i in range(60):
        Image.new("L", (9, 9), i).save(tmp_path / "grey" / f"{i}.png")
    for name, root, size, error, says in [
        ("cifar1000", "", 32, ValueError, "no data set is called 'cifar1000'.*: choose sample"),
        ("", "", 32, ValueError, "no data set is called ''"),
        ("~no-one/photos", "", 32, ValueError, "~no-one stands for nothing"),
        ("dogs-vs-cats", "", 32, FileNotFoundError, "kagglecatsanddogs_5340.zip"),
        ("cifar10", "$HOME", 32, ValueError, r"\$HOME stands for nothing"),
        ("sample", "", 128, AssertionError, "1 to 100 pixels a side, not image_size=128"),
        ("sample", "", 0, AssertionError, "not image_size=0"),
        ("sample", "", "16", AssertionError, "not image_size='16'"),
        ("one", "", "16", ValueError, "image_size has to be 1 or more, not '16'"),
        ("cifar10", "", 64, AssertionError, "32 x 32 pixels: there is no image_size=64"),
        ("empty", "", 32, FileNotFoundError, "no picture in .*empty: no file"),
        ("one", "", 32, AssertionError, "parts of .* pictures, .*: add some in colour"),
        ("grey", "", 32, AssertionError, "grey=.True, True, True.: add some in colour"),
        ("one", "", 0, ValueError, "image_size has to be 1 or more, not 0"),
    ]:
        with pytest.raises(error, match=says):
            load_images(name, root or tmp_path, image_size=size, download=False)
