"""Pictures prepared once: every source, every kind of file, its right colours, and what happens when it is cut off."""

import errno
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage.color import xyz2lab

from colorize_utils.files import pictures
from colorize_utils.files.pictures import Zip, find, prepare, read_square

ROOT = Path(__file__).resolve().parents[1]
STRESS = bool(os.environ.get("STRESS"))
PREPARE = "from colorize_utils.files.pictures import *; s = prepare(sys.argv[1], int(sys.argv[3]), sys.argv[2])"


def noise(seed, height=40, width=60):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_file(picture, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def zip_of(path, *members, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            archive.writestr(info, content)
    return path


@pytest.fixture
def photos(tmp_path):
    """60 pictures in two folders."""
    for i in range(60):
        place = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        noise(i).save(place / f"{i}.{('jpg', 'PNG', 'bmp')[i % 3]}")
    return tmp_path / "photos"


# ---- the store ----


def test_a_store_is_numpys_format_in_the_asked_order_and_a_user_writes_beside_it(photos, tmp_path):
    store = prepare(photos, 24, tmp_path / "store", order=lambda name: name[::-1])
    assert store.names == sorted(store.names, key=lambda name: name[::-1]) and store.skipped == {}
    for name, square in zip(store.names, np.load(store.folder / "pictures.npy")):
        middle = ImageOps.fit(Image.open(photos / name), (24, 24), Image.Resampling.BICUBIC)
        assert np.array_equal(square, np.asarray(middle).transpose(2, 0, 1))
    store.pictures[:] = 7
    again = prepare(photos, 24, tmp_path / "store", order=lambda name: name[::-1]).pictures
    assert again.shape == (60, 3, 24, 24) and again.dtype == torch.uint8 and (again != 7).any()
    assert sorted(os.listdir(tmp_path)) == [".store.lock", "photos", "store"]


def test_what_a_user_may_not_do(photos, tmp_path, as_nobody):
    """Write beside a store that is there and right; read a file, which is listed; list a folder."""
    first = prepare(photos, 16, tmp_path / "there" / "store")
    (tmp_path / "there").chmod(0o555)
    done = as_nobody(f"{PREPARE}; print(len(s.names))", photos, first.folder, 16)
    assert done.stdout == "60\n", done.stderr
    refused = as_nobody(PREPARE, photos, first.folder, 18).stderr
    assert f"nothing can be written to {tmp_path / 'there'} (Permission denied" in refused
    (photos / "cats" / "1.PNG").chmod(0)
    said = as_nobody(f"{PREPARE}; print(s.report())", photos, tmp_path / "store", 8).stdout
    assert "used 59, left out 1" in said and "1.PNG: Permission denied" in said
    (photos / "cats").chmod(0)
    errors = as_nobody(PREPARE, photos, tmp_path / "store", 8).stderr
    assert "Permission denied: change its permissions" in errors and str(photos / "cats") in errors


def change(what, photos):
    """Change a source in one way, and return the size to prepare it at."""
    cat = photos / "cats" / "1.PNG"
    if what in ("content", "new", "target"):
        names = {"content": cat, "new": photos / "new.png", "target": photos.parent / "target.png"}
        noise(99, 50, 50).save(names[what])
    elif what == "note":
        (photos / "note").write_text("no picture yet")
    elif what != "size":
        cat.unlink() if what == "gone" else cat.chmod(0o600)
    return 18 if what == "size" else 16


@pytest.mark.parametrize("what", ["content", "new", "gone", "size", "mode", "target", "note"])
def test_a_changed_source_or_size_is_noticed(what, photos, tmp_path, capsys):
    noise(7).save(tmp_path / "target.png")
    (photos / "link.png").symlink_to(tmp_path / "target.png")
    stamps = [os.stat(prepare(photos, 16, tmp_path / "store").folder).st_ino for _ in range(2)]
    assert capsys.readouterr().out == "" and stamps[0] == stamps[1]  # nothing has changed yet
    size = change(what, photos)
    new, fresh = prepare(photos, size, tmp_path / "store"), prepare(photos, size, tmp_path / "fresh")
    assert "preparing it again" in capsys.readouterr().out
    assert torch.equal(new.pictures, fresh.pictures) and new.skipped == fresh.skipped


def npy(*shape, **kind):
    file = io.BytesIO()
    np.save(file, np.zeros(shape, **kind))
    return file.getvalue()


ROWS = [npy(60, 192, dtype="u1"), npy(59, 3, 8, 8, dtype="u1"), npy(60, 3, 8, 8, dtype="i1"), b""]
ROWS += [
    npy(60, 3, 8, 8, dtype="u1", order="F"),
    lambda rows: bytes(len(rows)),
    lambda rows: rows + b"x",
]
INDEX = [b"", b'{"made', b"null", b"[]", b"{}", b"7", b"\xff"]
DAMAGE = [*(("pictures.npy", harm) for harm in ROWS), *(("index.json", harm) for harm in INDEX)]
DAMAGE += [
    ("pictures.npy", lambda rows: rows[:-5]),
    *(("skipped", x) for x in (None, [], "x", {"x": "y"}, 3)),
]


@pytest.mark.parametrize("what, harm", DAMAGE)
def test_whatever_is_unreadable_in_a_store_is_damage_and_made_anew(what, harm, photos, tmp_path, capsys):
    (photos / "bad.jpg").write_bytes(b"")
    whole = prepare(photos, 8, tmp_path / "store").pictures.clone()
    file = tmp_path / "store" / what.replace("skipped", "index.json")
    if what == "skipped":
        file.write_text(json.dumps({**json.loads(file.read_text()), "skipped": harm}))
    else:
        file.write_bytes(harm(file.read_bytes()) if callable(harm) else harm)
    again = prepare(photos, 8, tmp_path / "store")
    assert torch.equal(again.pictures, whole) and list(again.skipped) == ["bad.jpg"]
    assert "its store is damaged: preparing it again" in capsys.readouterr().out


def test_a_zip_gives_what_its_folder_gives_and_a_store_inside_is_no_part_of_it(photos, tmp_path):
    plain = prepare(photos, 16, tmp_path / "plain")
    files = [(name, (photos / name).read_bytes()) for name in plain.names]
    hidden = [("cats/Thumbs.db", b"x"), ("__MACOSX/cats/._1.jpg", b"x"), ("cats/.1.jpg", b"x")]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "read me.txt").write_text("...")
    zip_of(tmp_path / "only" / "train.ZIP", *files, *hidden, ("readme[1].txt", b"x"))
    zipped = prepare(tmp_path / "only", 16, tmp_path / "zipped")
    assert torch.equal(zipped.pictures, plain.pictures) and list(zipped.skipped) == ["readme[1].txt"]
    for size in (16, 18, 16):
        inside = prepare(photos, size, photos / "stores" / str(size))
        assert inside.names == plain.names and inside.skipped == {}


# ---- what is used, and what is left out ----


def bytes_read():  # by this process
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_every_file_is_used_or_listed_with_its_reason_and_no_film_is_read(tmp_path):
    folder, red, whole = tmp_path / "odd", Image.new("RGB", (40, 20), "red"), as_file(noise(1))
    for place in (folder, folder / ".Trash", folder / "__MACOSX", tmp_path / "elsewhere"):
        place.mkdir()
        red.save(place / "linked.png")
    kinds = ["png", "avif", "webp", "jfif", "tga", "jp2", "ppm", "gif", "Ünï😀.jpg", "dib", "ico"]
    for kind in kinds:
        red.save(folder / f"a.{kind}")
    red.resize((90, 1)).save(folder / "thin.png")
    red.save(folder / "moves.gif", save_all=True, append_images=[Image.new("RGB", (40, 20))] * 3)
    good = {"no suffix": whole, "png inside.jpg": as_file(red, "PNG"), os.fsdecode(b"\xff.jpg"): whole}
    used = {
        *good,
        "thin.png",
        "moves.gif",
        "linked.png",
        "there/linked.png",
        *(f"a.{kind}" for kind in kinds),
    }
    hidden = dict.fromkeys((".a.jpg", "Thumbs.db", "desktop.ini"), whole)
    bad = {"empty.jpg": b"", "text.jpg": b"no picture", "cut.jpg": whole[:900], "zeros.png": bytes(5000)}
    bad |= {"a.HEIC": b"\0\0\0\x24ftypheic" + bytes(99), "more.zip": b"PK", "page.jpg": b"<html>404"}
    bad |= {"seek.tif": b"II*\0" + b"\xff" * 40, "notes.txt": b"..."}
    bad["bomb.png"] = as_file(Image.new("L", (10_000, 10_000)), "PNG")  # small as a file
    for name, dtype in (("float.tif", np.float32), ("whole.tif", np.int32)):
        bad[name] = as_file(Image.fromarray(np.zeros((5, 5), dtype)), "TIFF")
    for name, content in (good | hidden | bad).items():
        (folder / name).write_bytes(content)
    links = {"loop.jpg": "loop.jpg", "nowhere.jpg": "x", "self": ".", "there": "../elsewhere"}
    for link, target in links.items():
        (folder / link).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")  # to open it would wait for ever
    with (folder / "film.mp4").open("wb") as film:
        film.write(b"\0\0\0\x18ftypisom")
        film.truncate(5 * 10**9)
    left = {*bad, "loop.jpg", "nowhere.jpg", "pipe.jpg", "film.mp4"}
    before = bytes_read()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        store = prepare(folder, 16, tmp_path / "store")
    assert bytes_read() - before < 20_000_000
    assert told == [] and set(store.names) == used and set(store.skipped) == left
    assert all(why and str(tmp_path) not in why for why in store.skipped.values()), store.skipped
    hints = {"a.HEIC": "as JPEG", "more.zip": "unpack", "float.tif": "16 bits", "whole.tif": "16 bits"}
    assert all(hint in store.skipped[name] for name, hint in hints.items())
    assert f"found {len(used | left)} files, used {len(used)}, left out {len(left)}" in store.report()
    assert "all of them are listed in" in store.report() and "loop.jpg" in store.report(most=99)
    store.report(most=99).encode("utf-8")
    assert prepare(folder, 16, tmp_path / "store").skipped == store.skipped


# ---- colours ----

# XYZ of D50 for one unit of linear red, green and blue; the exponent (0: sRGB's own curve)
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
PROPHOTO = np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0, 0, 0.82491]])
SPACES = {"P3": (P3, 0), "Adobe": (ADOBE, 563 / 256), "ProPhoto": (PROPHOTO, 461 / 256)}
COLORS = np.array([[200, 80, 60], [90, 160, 70], [60, 90, 180], [150, 150, 150]])


def icc(space, tags, kind=b"mntr", between=b"XYZ ") -> bytes:
    """A profile with these tags, as the ICC's specification has it."""
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    top = (start + len(body), 0x02400000, kind, space, between, b"acsp", 0xF6D6, 0x10000, 0xD32D)
    return struct.pack(">I4xI4s4s4s12x4s28x3I48xI", *top, len(tags)) + table + body


def fixed(*numbers) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def curve(exponent) -> bytes:
    if exponent:
        return struct.pack(">4s4xIH2x", b"curv", 1, round(exponent * 256))
    return b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def rgb_profile(matrix, exponent) -> bytes:
    tags = {b"rgb"[i : i + 1] + b"XYZ": b"XYZ \0\0\0\0" + fixed(*matrix[:, i]) for i in range(3)}
    return icc(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(exponent)))


def linear(rgb):
    rgb = np.asarray(rgb) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def encoded(light, exponent=0):
    srgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * (light ** (1 / exponent) if exponent else srgb)).round().astype(np.uint8)


def in_space(matrix, exponent):
    return encoded(linear(COLORS) @ SRGB.T @ np.linalg.inv(matrix).T, exponent)


def patches(values) -> Image.Image:
    """Four squares of 32 pixels, of one value each."""
    four = np.asarray(values).reshape(2, 2, -1).repeat(32, 0).repeat(32, 1).squeeze()
    return Image.fromarray(four if four.dtype == np.uint16 else four.astype(np.uint8))


def off(file, expected) -> float:
    """How far the four values that `read_square` finds are from those expected, at most."""
    found = read_square(io.BytesIO(file), 16)[:, 4::8, 4::8].reshape(3, 4).T
    return np.abs(found - np.asarray(expected, float).reshape(4, -1)).max()


LOSSY = {kind: {"quality": 100, "subsampling": "4:4:4"} for kind in ("JPEG", "AVIF")}  # by some levels
KINDS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}} | LOSSY


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    "kind, mode", [*((kind, "RGB") for kind in KINDS), ("PNG", "RGBA"), ("PNG", "P")]
)
def test_the_colours_of_a_profile_come_back_as_srgb(name, kind, mode):
    picture, options = patches(in_space(*SPACES[name])).convert(mode), KINDS[kind]
    tagged = as_file(picture, kind, icc_profile=rgb_profile(*SPACES[name]), **options)
    assert off(tagged, COLORS) <= (6 if kind in LOSSY else 2) < 9 < off(as_file(picture, kind), COLORS)


def test_profiles_of_grey_and_ink_are_applied_and_broken_ones_are_not():
    greys, flat = np.array([30, 90, 160, 250]), icc(b"GRAY", {b"kTRC": curve(1)})
    for picture in (patches(greys), patches(greys).convert("LA")):
        assert off(as_file(picture, "PNG", icc_profile=flat), encoded(greys / 255)) <= 1
    adobe = as_file(patches(greys), "PNG", icc_profile=rgb_profile(*SPACES["Adobe"]))
    assert off(adobe, encoded((greys / 255) ** SPACES["Adobe"][1])) <= 1
    corners = np.array([[255] * 3, *COLORS[np.arange(14) % 4], [0] * 3])  # of sixteen mixtures of ink
    lab = xyz2lab(linear(corners) @ SRGB.T, "D50") * [2.55, 1, 1] + [0, 128, 128]
    ramp, eye = bytes(range(256)), fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1\0\0\0\0\4\3\2\0" + eye + ramp * 4 + lab.round().astype("u1").tobytes() + ramp * 3
    press, mixed = icc(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab "), [4, 1, 6, 15]
    drops = patches([[255 * (i >> bit & 1) for bit in (3, 2, 1, 0)] for i in mixed])
    ink = Image.frombytes("CMYK", drops.size, drops.tobytes())
    for kind in ("TIFF", "JPEG"):
        assert off(as_file(ink, kind, icc_profile=press), corners[mixed]) <= 3
    whole = rgb_profile(*SPACES["P3"])
    for broken in (b"", b"broken", whole[:150], whole[:200] + bytes(len(whole) - 200), press, flat):
        assert off(as_file(patches(COLORS), "PNG", icc_profile=broken), COLORS) == 0


def test_what_is_transparent_becomes_white():
    half, p3 = patches(COLORS), patches(in_space(*SPACES["P3"]))
    key = as_file(half, "PNG", transparency=tuple(COLORS[0].tolist()))
    assert off(key, [[255] * 3, *COLORS[1:]]) == 0
    for picture in (half, p3):
        picture.putalpha(patches([0, 255, 255, 0]))
    tagged = as_file(p3, "PNG", icc_profile=rgb_profile(*SPACES["P3"]))
    for file in (as_file(half, "PNG"), as_file(half.quantize(), "PNG"), tagged):
        assert off(file, [[255] * 3, *COLORS[1:3], [255] * 3]) <= 2


@pytest.mark.parametrize("brightest", [200, 255, 256, 4095, 65535])
def test_the_mode_decides_what_white_is(brightest):
    values = np.array([0, brightest // 3, brightest // 2, brightest])
    deep = patches(values.astype(np.uint16))
    big = Image.frombytes("I;16B", deep.size, np.asarray(deep).astype(">u2").tobytes())
    files = [as_file(deep, kind) for kind in ("PNG", "TIFF", "PPM", "JPEG2000")] + [as_file(big, "TIFF")]
    assert max(off(file, values / 257) for file in files) <= 0.5
    dim = read_square(io.BytesIO(files[-1]), 16)  # Pillow shrinks such a TIFF wrongly, at edges
    assert dim.max() <= brightest / 257 * 1.3 + 1
    bits = "".join(f"{min(value, 4095):012b}" for value in np.asarray(deep).ravel())
    rows = int(bits, 2).to_bytes(len(bits) // 8, "big")  # 12 bits a pixel, which Pillow opens as 16
    tags = {256: 64, 257: 64, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiff = b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", 9) + entries + bytes(4)
    assert off(tiff, values.clip(0, 4095) * 255 / 4095) <= 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_a_picture_stands_upright(kind):
    for tag, undone in enumerate((0, 3, 1, 5, 2, 6, 4), 2):  # by the camera: flipped, turned, both
        exif = Image.Exif()
        exif[0x0112] = tag
        turned = patches(COLORS).transpose(Image.Transpose(undone))
        assert off(as_file(turned, kind, exif=exif, **KINDS[kind]), COLORS) <= 3, tag


def test_memory_does_not_grow_with_the_cores(tmp_path):
    """Six pictures of 89 megapixels (or 16, with less room) on six threads: one at a time."""
    side, room, most = (9450, 64, 1000) if STRESS else (4000, 16, 300)
    (tmp_path / "large").mkdir()
    for i, mode in enumerate(("RGB", "RGBA", "P") * 2):
        picture = Image.new("RGB", (side, side), "red").convert(mode)
        picture.save(tmp_path / "large" / f"{i}.png", compress_level=1)
    program = f"""import os, sys; import colorize_utils.files.pictures as p
os.cpu_count, p.MEGAPIXELS, p.FREE = lambda: 6, {room}, p.threading.Semaphore({room})
def most(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
before = most(); used = len(p.prepare(sys.argv[1], 16, sys.argv[2]).names); print(before, most(), used)"""
    command = [sys.executable, "-c", program, str(tmp_path / "large"), str(tmp_path / "store")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    before, peak, used = map(int, done.stdout.split())
    assert used == 6 and peak - before < most and peak < 1500, (before, peak)


# ---- archives ----

LEAVES = [
    "/etc/cat.jpg",
    "../cat.jpg",
    "a/../../cat.jpg",
    "C:/cat.jpg",
    "../readme.txt",
    "a\\..\\..\\cat.jpg",
]


@pytest.mark.parametrize("name, mode", [*((name, 0) for name in LEAVES), ("link.jpg", 0o120777)])
def test_an_archive_that_leads_out_of_itself_is_refused(name, mode, tmp_path):
    with pytest.raises(ValueError, match="is refused: .* is a link, or leads out of it"):
        Zip(zip_of(tmp_path / "a.zip", (name, b"x"), mode=mode))


def test_bombs_and_damage_in_an_archive_are_refused_or_listed(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="would unpack to 0.3 GB"):
        Zip(zip_of(tmp_path / "bomb.zip", *((f"{i}.bmp", bytes(10_000_000)) for i in range(30))))
    members = [
        ("good.jpg", as_file(noise(1))),
        ("flip.jpg", as_file(noise(2))),
        ("huge.bmp", bytes(300 << 20)),
    ]
    raw = bytearray(zip_of(tmp_path / "a.zip", *members).read_bytes())
    (tmp_path / "cut.zip").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="no zip, or not all of it.*fetch it again"):
        Zip(tmp_path / "cut.zip")
    raw[zipfile.ZipFile(tmp_path / "a.zip").getinfo("flip.jpg").header_offset + 500] ^= 255
    (tmp_path / "a.zip").write_bytes(raw)
    monkeypatch.setattr(pictures, "MOST_EXPANSION", 10_000)
    store = prepare(tmp_path / "a.zip", 8, tmp_path / "store")
    assert store.names == ["good.jpg"] and set(store.skipped) == {"flip.jpg", "huge.bmp"}
    assert store.skipped["huge.bmp"] == "more than 256 MB"


def test_sources_without_pictures_are_named(tmp_path):
    def refused(says, source=tmp_path / "some", error=FileNotFoundError, size=8):
        with pytest.raises(error, match=says):
            prepare(source, size, tmp_path / "store")

    refused("no data set is called .*nothing'.*choose sample", tmp_path / "nothing", ValueError)
    (tmp_path / "some").mkdir()
    refused("no picture in .*some: no file")
    zip_of(tmp_path / "some" / "outer.zip", ("train.zip", b"x"))
    refused("no picture in .*outer.zip: train.zip: a zip: unpack it")
    zip_of(tmp_path / "some" / "second.zip", ("a.jpg", b"x"))
    refused("some: outer.zip: a zip: unpack it, or give its path alone; second.zip")
    refused("image_size has to be 1 or more, not 0", error=ValueError, size=0)
    assert sorted(os.listdir(tmp_path)) == [".store.lock", "some"]
    with pytest.raises(ValueError, match="is called ''"):
        find("", tmp_path)


# ---- cut off ----


@pytest.fixture
def many(tmp_path):
    """A folder of 400 files, 8 of them broken, and what begins to prepare it slowly, in another process."""
    (tmp_path / "many").mkdir()
    for i in range(400):
        (tmp_path / "many" / f"{i}.jpg").write_bytes(as_file(noise(i)) if i % 50 else b"broken")
    program = """import sys, time; import colorize_utils.files.pictures as p; read = p.read_square
p.read_square = lambda *file: time.sleep(0.01) or read(*file)
print("ready", len(p.prepare(sys.argv[1], 16, sys.argv[2]).names))"""
    command = [sys.executable, "-c", program, str(tmp_path / "many"), str(tmp_path / "store")]
    rows = tmp_path / "store.partial" / "pictures.npy"

    def start(until=0):
        process = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
        while until and not (rows.is_file() and rows.stat().st_size >= until * 768):
            time.sleep(0.005)
        return process

    return tmp_path / "many", start


def test_a_killed_preparation_leaves_what_was_there_and_is_made_anew(many, tmp_path):
    folder, start = many
    whole = prepare(folder, 16, tmp_path / "store").pictures.clone()
    (folder / "1.jpg").unlink()
    kills = 20 if STRESS else 3
    for kill in range(1, kills + 1):
        process = start(until=300 * kill // kills)
        process.kill()
        process.wait()
        assert np.array_equal(np.load(tmp_path / "store" / "pictures.npy"), whole)
    store, fresh = prepare(folder, 16, tmp_path / "store"), prepare(folder, 16, tmp_path / "fresh")
    assert torch.equal(store.pictures, fresh.pictures) and len(store.names) == 391
    assert sorted(os.listdir(tmp_path)) == [".fresh.lock", ".store.lock", "fresh", "many", "store"]


def test_a_source_that_vanishes_is_an_error_and_no_bad_pictures(many, tmp_path):
    process = many[1](until=40)
    many[0].rename(tmp_path / "away")
    last = process.communicate()[1].splitlines()[-1]
    assert "many was not prepared" in last and ".jpg: No such file or directory" in last
    (tmp_path / "away").rename(many[0])
    assert len(prepare(many[0], 16, tmp_path / "store").names) == 392


def test_two_preparations_at_once_do_no_harm(many, tmp_path):
    said = "".join(process.communicate()[0] for process in (many[1](), many[1]()))
    assert said.count("ready 392") == 2 and "another process is at work on" in said
    fresh = prepare(many[0], 16, tmp_path / "fresh")
    assert torch.equal(prepare(many[0], 16, tmp_path / "store").pictures, fresh.pictures)


def test_a_disk_that_fails_is_no_bad_picture(photos, tmp_path, monkeypatch):
    def failing(file, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(pictures, "read_square", failing)
    with pytest.raises(
        OSError, match="cats/1.PNG: Input/output error: the drive is gone: mount it again"
    ):
        prepare(photos, 8, tmp_path / "store")


def test_a_full_disk_loses_nothing(photos, tmp_path):
    """A file system of 128 kB: the store needs 414 kB."""
    (small := tmp_path / "small").mkdir()
    run = f'mount -t tmpfs -o size=128k none {small} || exit 77; "$0" -c "$1" {photos} {small}/s 48; ls {small}'
    command = ["unshare", "-rm", "sh", "-c", run, sys.executable, f"import sys; {PREPARE}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode in (77, 127):
        pytest.skip("no small file system can be mounted here")
    last = done.stderr.splitlines()[-1]
    assert "image_size=48" in last and "No space left on device: make room" in last and done.stdout == ""
