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


def test_the_sample_needs_no_network_and_repeats_itself(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    first, again, other = load_images(), load_images("sample"), load_images("sample", seed=1)
    assert [tuple(part.shape) for part in first] == [
        (1500, 3, 32, 32),
        (300, 3, 32, 32),
        (300, 3, 32, 32),
    ]
    assert all(part.dtype == torch.uint8 for part in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.train, other.train)


def test_parts_of_the_sample_share_no_pixel(monkeypatch):
    def coded(name):
        photo = torch.full((3, 300, 400), 10 if name in SEEN else 90, dtype=torch.uint8)
        if name in SEEN:
            photo[:, :, 320:] = 200
        return photo

    monkeypatch.setattr(data, "photograph", coded)
    images = load_images("sample")
    assert [part.unique().tolist() for part in images] == [[10], [200], [90]]
    assert not set(SEEN) & set(UNSEEN)


def test_photographs_are_what_scikit_image_ships():
    assert torch.equal(photograph("coffee").permute(1, 2, 0), torch.from_numpy(skimage.data.coffee()))


def test_squares_come_from_the_photograph_at_every_scale():
    ramp = torch.arange(200).repeat(200, 1).byte().expand(3, -1, -1)  # every column has its own value
    squares = data.random_squares(ramp, 200, 16, torch.Generator().manual_seed(0)).float()
    assert (squares[:, :, 1:-1] - squares[:, :, 2:3]).abs().max() <= 1  # columns stay columns
    side = (squares[:, 0, 0, -1] - squares[:, 0, 0, 0]) * 16 / 15
    assert side.min() < 36 and side.max() > 170
    assert squares.min() < 10 and squares.max() > 185  # near both borders


def test_a_photograph_smaller_than_the_size_is_enlarged():
    squares = data.random_squares(torch.zeros(3, 5, 9, dtype=torch.uint8), 2, 16, torch.Generator())
    assert squares.shape == (2, 3, 16, 16)


def test_is_grey():
    pictures = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    pictures[1] = pictures[1, :1]
    pictures[3] = 100
    pictures[3, 0] += 3
    assert is_grey(pictures).tolist() == [False, True, False, False]
    assert is_grey(pictures, tolerance=3).tolist() == [False, True, False, True]
    assert chroma(pictures)[3] == 3


# ---- CIFAR (tests/test_downloads.py fetches a small one) ----


def test_the_real_cifar100(real_cifar100):
    images = load_images("cifar100", real_cifar100, download=False)
    assert [len(part) for part in images] == [45_000, 5_000, 10_000]
    official = torch.cat([images.train, images.validation])
    assert is_grey(official).sum() == 950 and is_grey(official, tolerance=0).sum() == 703
    known = {picture.tobytes() for picture in official.numpy()}
    assert sum(picture.tobytes() in known for picture in images.test.numpy()) == 10


# ---- folders ----


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(60):
        place = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + i % 7, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.{('jpg', 'PNG', 'bmp')[i % 3]}")
    return tmp_path / "photos"


def as_set(pictures):
    return {picture.tobytes() for picture in pictures.numpy()}


def test_a_folder_is_split_by_name_and_new_files_move_nobody(folder):
    root = folder.parent / "data"
    before = [part.clone() for part in load_images(str(folder), root, image_size=24)]
    assert sum(map(len, before)) == 60 and before[0].shape[1:] == (3, 24, 24)
    assert len(before[0]) > 35
    for i in range(40):
        Image.new("RGB", (30, 30), (i, 200, 9)).save(folder / f"new_{i}.png")
    after = load_images(folder, root, image_size=24)
    assert sum(map(len, after)) == 100
    assert all(as_set(old) <= as_set(new) for old, new in zip(before, after))


def test_part_of_is_80_10_10():
    counts = np.bincount([part_of(f"cat.{i}.jpg") for i in range(20_000)]) / 20_000
    assert counts == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_the_order_depends_on_the_names_alone(folder, tmp_path):
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    images = load_images(folder, tmp_path, image_size=16)
    for k, part in enumerate(images):
        inside = sorted((name for name in names if part_of(name) == k), key=data.name_hash)
        squares = np.stack([read_square(folder / name, 16) for name in inside])
        assert np.array_equal(part.numpy(), squares)


def test_dogs_vs_cats_lies_below_the_root(folder):
    folder.rename(folder.parent / "dogs-vs-cats")
    root = folder.parent
    images = load_images("dogs-vs-cats", root, image_size=16, download=False)
    assert sum(map(len, images)) == 60
    packed = shutil.make_archive(root / "train", "zip", root / "dogs-vs-cats")
    shutil.rmtree(root / "dogs-vs-cats")
    (root / "dogs-vs-cats").mkdir()
    shutil.move(packed, root / "dogs-vs-cats")
    again = load_images("dogs-vs-cats", root, image_size=16, download=False)
    assert all(torch.equal(a, b) for a, b in zip(images, again))
    (root / "img_align_celeba.zip").write_bytes((root / "dogs-vs-cats" / "train.zip").read_bytes())
    faces = load_images("img_align_celeba.zip", root, image_size=16)  # as data/img_align_celeba.zip
    assert all(torch.equal(a, b) for a, b in zip(images, faces))


def test_unreadable_files_are_left_out_and_listed(folder, tmp_path, capsys):
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    images = load_images(folder, tmp_path, image_size=16)
    assert sum(map(len, images)) == 60
    said = capsys.readouterr().out
    assert "found 62 pictures, used 60, left out 2" in said
    assert "empty.jpg: not a picture" in said and "text.png: not a picture" in said


def test_grey_pictures_can_be_left_out_of_any_set(folder, tmp_path):
    for i in range(30):
        Image.new("L", (30, 30), 8 * i).save(folder / f"grey_{i}.png")
    assert sum(map(len, load_images(folder, tmp_path, image_size=16))) == 90
    images = load_images(folder, tmp_path, image_size=16, skip_grey=True)
    assert sum(map(len, images)) == 60 and not any(is_grey(part).any() for part in images)
    whole, colourful = load_images("sample"), load_images("sample", skip_grey=True)
    assert len(colourful.validation) == 290 and len(whole.validation) == 300


def test_a_folder_that_has_all_in_one_place_is_read_from_the_disk(folder, tmp_path):
    images = load_images(folder, tmp_path, image_size=16)
    (store,) = (tmp_path / "stores").glob("photos_*_16px")
    assert np.array_equal(np.load(store / "pictures.npy"), torch.cat(images).numpy())


def test_every_kind_of_picture_is_read_upright_as_rgb(tmp_path):
    red = Image.new("RGB", (40, 20), "red")
    red.paste("blue", (20, 0, 40, 20))  # left red, right blue
    kinds = {
        "rgb.png": red,
        "rgba.png": red.convert("RGBA"),
        "palette.png": red.convert("P", palette=Image.Palette.ADAPTIVE),
        "cmyk.jpg": red.convert("CMYK"),
        "grey.png": red.convert("L"),
        "one_bit.png": red.convert("1"),
        "sixteen_bit.png": Image.fromarray(np.asarray(red.convert("L")).astype(np.uint16) * 257),
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees
    red.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    squares = {path.stem: read_square(path, 10).astype(float) for path in tmp_path.iterdir()}
    assert len(squares) == 8
    for name, square in squares.items():
        left, right = square[:, 5, 1].tolist(), square[:, 5, 8].tolist()
        if name in ("grey", "one_bit", "sixteen_bit"):
            assert left[0] == left[1] == left[2]
        else:
            assert left == pytest.approx([255, 0, 0], abs=30), name
            assert right == pytest.approx([0, 0, 255], abs=30), name
    assert np.array_equal(squares["sixteen_bit"], squares["grey"])


@pytest.mark.parametrize(
    "name, error, says",
    [
        ("cifar1000", ValueError, "no data set is called 'cifar1000' and there is no folder .*: choose"),
        ("dogs-vs-cats", FileNotFoundError, "kagglecatsanddogs_5340.zip"),
        ("", ValueError, "no data set is called ''"),
    ],
)
def test_unknown_and_absent_sets_are_named(tmp_path, name, error, says):
    with pytest.raises(error, match=says):
        load_images(name, tmp_path, download=False)


def test_folders_without_enough_pictures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture in"):
        load_images(tmp_path, tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="each part needs at least one"):
        load_images(tmp_path, tmp_path)


def test_sizes_that_cannot_be_are_named(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        load_images("sample", image_size=0)
    with pytest.raises(ValueError, match="set IMAGE_SIZE to 100 or less"):
        load_images("sample", image_size=128)
    with pytest.raises(ValueError, match="set IMAGE_SIZE = 32"):
        load_images("cifar10", tmp_path, image_size=64)
