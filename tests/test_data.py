import hashlib
import shutil
import socket

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from colorize_utils import data
from colorize_utils.data import SEEN, UNSEEN, chroma, is_grey, load_images, part_of, photograph
from colorize_utils.files.pictures import read_square


def test_the_sample_needs_no_network_and_is_always_the_same(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    images, again, other = load_images(), load_images("sample"), load_images("sample", seed=1)
    assert [tuple(part.shape) for part in images] == [(n, 3, 32, 32) for n in (1500, 300, 300)]
    assert all(torch.equal(a, b) for a, b in zip(images, again))
    assert not torch.equal(images.train, other.train) and not set(SEEN) & set(UNSEEN)
    mean = [
        part.float().mean().item() for part in images
    ]  # the shipped nets and all results are of these
    assert mean == pytest.approx([96.991, 88.072, 110.8], abs=0.01)
    coffee = photograph("coffee").permute(1, 2, 0)
    assert torch.equal(coffee, torch.from_numpy(skimage.data.coffee()))


def test_parts_of_the_sample_share_no_pixel(monkeypatch):
    def coded(name):
        photo = torch.full((3, 300, 400), 10 if name in SEEN else 90, dtype=torch.uint8)
        if name in SEEN:
            photo[:, :, 320:] = 200
        return photo

    monkeypatch.setattr(data, "photograph", coded)
    assert [part.unique().tolist() for part in load_images("sample")] == [[10], [200], [90]]


def test_squares_come_from_the_photograph_at_every_scale():
    ramp = torch.arange(200).repeat(200, 1).byte().expand(3, -1, -1)  # every column has its own value
    squares = data.random_squares(ramp, 200, 16, torch.Generator().manual_seed(0)).float()
    assert (squares[:, :, 1:-1] - squares[:, :, 2:3]).abs().max() <= 1  # columns stay columns
    side = (squares[:, 0, 0, -1] - squares[:, 0, 0, 0]) * 16 / 15
    assert side.min() < 36 and side.max() > 170
    assert squares.min() < 10 and squares.max() > 185  # near both borders
    small = torch.zeros(3, 5, 9, dtype=torch.uint8)
    assert data.random_squares(small, 2, 16, torch.Generator()).shape == (2, 3, 16, 16)


def test_is_grey():
    pictures = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    pictures[1] = pictures[1, :1]
    pictures[3] = 100
    pictures[3, 0] += 3
    assert is_grey(pictures).tolist() == [False, True, False, False]
    assert is_grey(pictures, tolerance=3).tolist() == [False, True, False, True]
    assert chroma(pictures)[3] == 3


def test_the_real_cifar100(real_cifar100):  # tests/test_downloads.py fetches a small one
    images = load_images("cifar100", real_cifar100, download=False)
    hashes = [hashlib.sha256(part.numpy().tobytes()).hexdigest()[:12] for part in images]
    assert hashes == ["ac2b6e3c4521", "cfb475df17ab", "83c56492b2c1"]
    official = torch.cat([images.train, images.validation])
    assert is_grey(official).sum() == 950 and is_grey(official, tolerance=0).sum() == 703
    known = {picture.tobytes() for picture in official.numpy()}
    assert sum(picture.tobytes() in known for picture in images.test.numpy()) == 10


# ---- folders ----


@pytest.fixture
def folder(tmp_path):
    for i in range(60):
        place = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i % 7, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.{('jpg', 'PNG', 'bmp')[i % 3]}")
    return tmp_path / "photos"


def test_parts_and_order_depend_on_the_names_alone(folder, tmp_path):
    def as_sets():
        images = load_images(folder, tmp_path / "data", image_size=16)
        return images, [{picture.tobytes() for picture in part.numpy()} for part in images]

    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    images, before = as_sets()
    for k, part in enumerate(images):
        inside = sorted((name for name in names if part_of(name) == k), key=data.name_hash)
        assert np.array_equal(part, np.stack([read_square(folder / name, 16) for name in inside]))
    (store,) = (tmp_path / "data" / "stores").glob("photos_*_16px")
    assert np.array_equal(np.load(store / "pictures.npy"), torch.cat(images))  # all from the disk
    for i in range(40):
        Image.new("RGB", (30, 30), (i, 200, 9)).save(folder / f"new_{i}.png")
    after = as_sets()[1]
    assert sum(map(len, after)) == 100 and all(old <= new for old, new in zip(before, after))
    counts = np.bincount([part_of(f"cat.{i}.jpg") for i in range(20_000)]) / 20_000
    assert counts == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_dogs_vs_cats_lies_below_the_root(folder):
    root = folder.parent
    folder.rename(root / "dogs-vs-cats")
    images = load_images("dogs-vs-cats", root, image_size=16, download=False)
    packed = shutil.make_archive(root / "train", "zip", root / "dogs-vs-cats")
    shutil.copy(packed, root / "img_align_celeba.zip")
    shutil.rmtree(root / "dogs-vs-cats")
    (root / "dogs-vs-cats").mkdir()
    shutil.move(packed, root / "dogs-vs-cats")
    for name in ("dogs-vs-cats", "img_align_celeba.zip"):  # packed; as data/img_align_celeba.zip
        again = load_images(name, root, image_size=16, download=False)
        assert all(torch.equal(a, b) for a, b in zip(images, again))


def test_what_is_left_out_is_said(folder, tmp_path, capsys):
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    images = load_images(folder, tmp_path, image_size=16)
    assert sum(map(len, images)) == 60
    said = capsys.readouterr().out
    assert "found 62 files, used 60, left out 2" in said
    assert "empty.jpg: not a picture" in said and "text.png: not a picture" in said


@pytest.mark.parametrize(
    "name, root, size, error, says",
    [
        ("cifar1000", "", 32, ValueError, "no data set is called 'cifar1000'.*: choose sample"),
        ("", "", 32, ValueError, "no data set is called ''"),
        ("~no-one/photos", "", 32, ValueError, "~no-one stands for nothing"),
        ("dogs-vs-cats", "", 32, FileNotFoundError, "kagglecatsanddogs_5340.zip"),
        ("cifar10", "$HOME", 32, ValueError, r"\$HOME stands for nothing"),
        ("sample", "", 128, AssertionError, "too few for image_size=128"),
        ("cifar10", "", 64, AssertionError, "32 x 32 pixels: there is no image_size=64"),
        ("empty", "", 32, FileNotFoundError, "no picture in"),
        ("one", "", 32, AssertionError, "parts of .* pictures: add some"),
        ("one", "", 0, ValueError, "image_size has to be 1 or more"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, root, size, error, says, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "one" / "a.png")
    with pytest.raises(error, match=says):
        load_images(name, root or tmp_path, image_size=size, download=False)
