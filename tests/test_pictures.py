"""Pictures prepared once: every source, every kind of file, its colours, and what cuts it off."""

import errno
import io
import json
import os
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from colorize_utils.data import photograph
from colorize_utils.files import pictures
from colorize_utils.files.pictures import Zip, prepare, read_square
from colorize_utils.files.sets import name_hash

ROOT = Path(__file__).resolve().parents[1]
STRESS = bool(os.environ.get("STRESS"))
PREPARE = """from colorize_utils.files.pictures import *
print(prepare(sys.argv[1], int(sys.argv[3]), sys.argv[2]).report())"""


def noise(seed, height=40, width=60):
    pixels = np.random.default_rng(seed).bytes(height * width * 3)
    return Image.frombytes("RGB", (width, height), pixels)


def as_file(picture, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def zip_of(path, members: dict, mode=0):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


@pytest.fixture
def photos(tmp_path):
    for i in range(60):
        place = tmp_path / "photos" / ("dogs", "cats")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        noise(i).save(place / f"{i}.{('jpg', 'PNG', 'bmp')[i % 3]}")
    return tmp_path / "photos"


def test_a_store_is_numpys_format_in_the_asked_order_and_a_user_writes_beside_it(photos, tmp_path):
    store = prepare(photos, 24, tmp_path / "store", name_hash)
    assert store.names == sorted(store.names, key=name_hash) and len(store.names) == 60
    for name, square in zip(store.names, np.load(store.folder / "pictures.npy")):
        middle = ImageOps.fit(Image.open(photos / name), (24, 24), Image.Resampling.BICUBIC)
        assert np.array_equal(square, np.asarray(middle).transpose(2, 0, 1))
    store.pictures[:] = 7
    again = prepare(photos, 24, tmp_path / "store", name_hash).pictures
    assert again.shape == (60, 3, 24, 24) and again.dtype == torch.uint8 and (again != 7).any()
    assert sorted(os.listdir(tmp_path)) == [".store.lock", "photos", "store"]


def test_what_a_user_may_not_do(photos, tmp_path, as_nobody):
    """Write beside a store that is there and right; read a file, which is listed; list a folder."""
    first = prepare(photos, 16, tmp_path / "there" / "store")
    (tmp_path / "there").chmod(0o555)
    assert "used 60" in as_nobody(PREPARE, photos, first.folder, 16).stdout
    refused = as_nobody(PREPARE, photos, first.folder, 18).stderr
    assert f"nothing can be written to {tmp_path / 'there'} (Permission denied" in refused
    (photos / "cats" / "1.PNG").chmod(0)
    said = as_nobody(PREPARE, photos, tmp_path / "store", 8).stdout
    assert "used 59, left out 1" in said and "1.PNG: Permission denied" in said
    (photos / "cats").chmod(0)
    errors = as_nobody(PREPARE, photos, tmp_path / "store", 8).stderr
    assert "Permission denied: change its permissions" in errors and str(photos / "cats") in errors


def test_a_changed_source_is_noticed(photos, tmp_path, capsys):
    target, cat = tmp_path / "target.png", photos / "cats" / "1.PNG"
    noise(7).save(target)
    (photos / "link.png").symlink_to(target)
    changes = {
        "content": lambda: noise(99).save(photos / "dogs" / "2.bmp"),  # as large as before
        "target": lambda: noise(98, 50, 50).save(target),
        "new": lambda: noise(97).save(photos / "new.png"),
        "mode": lambda: cat.chmod(0o600),
        "gone": cat.unlink,
        "note": lambda: (photos / "note").write_text("no picture yet"),
    }
    for what, change in changes.items():
        prepare(photos, 16, tmp_path / "store")
        assert capsys.readouterr().out == "", f"something has changed before {what}"
        change()
        store = prepare(photos, 16, tmp_path / "store")
        fresh = prepare(photos, 16, photos / "stores" / what)  # which is no part of its source
        assert "preparing it again" in capsys.readouterr().out, what
        assert torch.equal(store.pictures, fresh.pictures) and store.skipped == fresh.skipped, what


def npy(*shape, **kind):
    file = io.BytesIO()
    np.save(file, np.zeros(shape, **{"dtype": np.uint8} | kind))
    return file.getvalue()


def test_whatever_is_unreadable_in_a_store_is_damage_and_made_anew(photos, tmp_path, capsys):
    (photos / "bad.jpg").write_bytes(b"")
    store, right = prepare(photos, 8, tmp_path / "store"), (60, 3, 8, 8)
    whole, index = store.pictures.clone(), json.loads((store.folder / "index.json").read_text())
    rows = [npy(60, 192), npy(59, 3, 8, 8), npy(*right, dtype=np.int8), npy(*right, order="F")]
    rows += [npy(*right)[:-5], npy(*right) + b"x", bytes(128 + 60 * 192), b""]
    wrong = [json.dumps(index | {"skipped": x}) for x in (None, [], {"bad.jpg": "", "x": ""})]
    texts = [b"", b'{"made', b"null", b"[]", b"{}", b"7", b"\xff", *map(str.encode, wrong)]
    for name, harm in [("pictures.npy", x) for x in rows] + [("index.json", x) for x in texts]:
        (store.folder / name).write_bytes(harm)
        again = prepare(photos, 8, tmp_path / "store")
        assert torch.equal(again.pictures, whole) and list(again.skipped) == ["bad.jpg"], harm
        assert "its store is damaged: preparing it again" in capsys.readouterr().out, harm


def test_a_zip_gives_what_its_folder_gives_and_lists_what_is_damaged(photos, tmp_path, monkeypatch):
    plain = prepare(photos, 16, tmp_path / "plain")
    files = {name: (photos / name).read_bytes() for name in plain.names}
    hidden = dict.fromkeys(("cats/Thumbs.db", "__MACOSX/cats/._1.jpg", "cats/.1.jpg"), b"x")
    bad = {"flip.jpg": as_file(noise(2)), "huge.bmp": bytes(2 << 20), "readme[1].txt": b"x"}
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "read me.txt").write_text("...")
    path = zip_of(tmp_path / "only" / "train.ZIP", files | hidden | bad)
    raw = bytearray(path.read_bytes())
    raw[zipfile.ZipFile(path).getinfo("flip.jpg").header_offset + 500] ^= 255
    path.write_bytes(raw)
    monkeypatch.setattr(pictures, "MOST_BYTES", 2**20)
    zipped = prepare(tmp_path / "only", 16, tmp_path / "zipped")
    assert torch.equal(zipped.pictures, plain.pictures) and zipped.skipped.keys() == bad.keys()
    assert zipped.skipped["huge.bmp"] == "more than 1 MB"
    zip_of(tmp_path / "only" / "b.zip", files)  # of two, none is guessed
    with pytest.raises(FileNotFoundError, match="b.zip: a zip: unpack it, or give its path alone"):
        prepare(tmp_path / "only", 16, tmp_path / "zipped")


def test_a_zip_that_leads_out_of_itself_or_is_a_bomb_or_cut_is_refused(tmp_path):
    leaves = ["/etc/cat.jpg", "../cat.jpg", "a/../../cat.jpg", "C:/cat.jpg", "a\\..\\..\\cat.jpg"]
    for name in [*leaves, "link.jpg"]:
        with pytest.raises(ValueError, match="is refused: .* is a link, or leads out of it"):
            Zip(zip_of(tmp_path / "a.zip", {name: b"x"}, 0o120777 if name == "link.jpg" else 0))
    with pytest.raises(ValueError, match="would unpack to 0.3 GB"):
        Zip(zip_of(tmp_path / "a.zip", {f"{i}.bmp": bytes(10**7) for i in range(30)}))
    os.truncate(tmp_path / "a.zip", 100_000)
    with pytest.raises(ValueError, match="no zip, or not all of it.*fetch it again"):
        Zip(tmp_path / "a.zip")


def test_every_file_is_used_or_listed_with_its_reason_and_no_film_is_read(tmp_path):
    folder, red, whole = tmp_path / "odd", Image.new("RGB", (40, 20), "red"), as_file(noise(1))
    for place in (folder, folder / ".Trash", folder / "__MACOSX", tmp_path / "elsewhere"):
        place.mkdir()
        red.save(place / "linked.png")
    kinds = ["png", "avif", "webp", "jfif", "tga", "jp2", "gif", "Ünï😀.jpg", "ico"]
    for kind in kinds:
        red.save(folder / f"a.{kind}")
    good = {"no suffix": whole, "png.jpg": as_file(red, "PNG"), os.fsdecode(b"\xff.jpg"): whole}
    hidden = dict.fromkeys((".a.jpg", "Thumbs.db", "desktop.ini"), whole)
    bad = {"empty.jpg": b"", os.fsdecode(b"\xfe.jpg"): whole[:900], "x": b"x", "more.zip": b"PK"}
    bad |= {"a.HEIC": b"\0\0\0\x24ftypheic" + bytes(99), "film.mp4": b"\0\0\0\x18ftypisom"}
    bad["seek.tif"] = b"II+\0\x08\0\0\0" + b"\xff" * 7 + b"\x7f"  # to where no file can reach
    bad["bomb.png"] = as_file(Image.new("L", (10_000, 10_000)), "PNG")  # small as a file
    bad |= {f"{mode}.tif": as_file(Image.new(mode, (5, 5)), "TIFF") for mode in "FI"}  # of 32 bits
    for name, content in (good | hidden | bad).items():
        (folder / name).write_bytes(content)
    links = {"loop.jpg": "loop.jpg", "nowhere.jpg": "x", "self": ".", "there": "../elsewhere"}
    for link, target in links.items():
        (folder / link).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")  # to open it would wait for ever
    os.truncate(folder / "film.mp4", 5 * 10**9)
    used = {*good, "linked.png", "there/linked.png"}.union(f"a.{kind}" for kind in kinds)
    left = {*bad, "loop.jpg", "nowhere.jpg", "pipe.jpg"}
    before = int(Path("/proc/self/io").read_text().split()[1])  # how many bytes have been read
    with warnings.catch_warnings(action="error"):
        store = prepare(folder, 16, tmp_path / "store")
    assert int(Path("/proc/self/io").read_text().split()[1]) - before < 20_000_000
    assert set(store.names) == used and set(store.skipped) == left
    assert all(why and str(tmp_path) not in why for why in store.skipped.values()), store.skipped
    hints = {"a.HEIC": "as JPEG", "more.zip": "unpack", "F.tif": "16 bits", "I.tif": "16 bits"}
    assert all(hint in store.skipped[name] for name, hint in hints.items())
    said = store.report()
    assert f"found {len(used | left)} files, used {len(used)}, left out {len(left)}" in said
    assert "all of them are listed in" in said and b"loop" in store.report(99).encode()
    assert prepare(folder, 16, tmp_path / "store").skipped == store.skipped


# of each space: XYZ (of D50) of red, green and blue; and the COLORS there, by its standard
P3 = [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
ADOBE = [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
PRO = [[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0, 0, 0.82491]]
SRGB_CURVE = 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
CURVE = b"para\0\0\0\0\0\3\0\0"  # of such five numbers
COLORS = np.array([[200, 80, 60], [90, 160, 70], [60, 90, 180], [150, 150, 150]])
IN_P3 = [[186, 88, 67], [107, 158, 81], [67, 89, 174], [150, 150, 150]]
IN_ADOBE = [[175, 81, 63], [115, 159, 78], [72, 90, 176], [149, 149, 149]]
IN_PRO = [[140, 81, 53], [98, 135, 69], [79, 74, 155], [132, 132, 132]]
LAB = [[129, 176, 165], [152, 92, 167], [101, 140, 76], [158, 128, 128]]  # the same, as 8 bits


def icc(space, tags, kind=b"mntr", between=b"XYZ ") -> bytes:
    """A profile with these tags, as the ICC's specification has it."""
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    top = (start + len(body), 0x02400000, kind, space, between, b"acsp", 0xF6D6, 0x10000, 0xD32D)
    return struct.pack(">I4xI4s4s4s12x4s28x3I48xI", *top, len(tags)) + table + body


def fixed(*numbers) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def rgb_profile(matrix, exponent, a=1, b=0, c=0, d=0) -> bytes:
    tags = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), CURVE + fixed(exponent, a, b, c, d))
    tags |= {b"%cXYZ" % at: b"XYZ \0\0\0\0" + fixed(*xyz) for at, xyz in zip(b"rgb", zip(*matrix))}
    return icc(b"RGB ", tags)


DISPLAY_P3, ADOBE_RGB = rgb_profile(P3, *SRGB_CURVE), rgb_profile(ADOBE, 563 / 256)
SPACES = [(DISPLAY_P3, IN_P3), (ADOBE_RGB, IN_ADOBE), (rgb_profile(PRO, 461 / 256), IN_PRO)]
LOSSY = {kind: {"quality": 100, "subsampling": "4:4:4"} for kind in ("JPEG", "AVIF")}
KINDS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}} | LOSSY


def patches(values) -> Image.Image:
    """Four squares of 32 pixels, of one value each."""
    four = np.asarray(values).reshape(2, 2, -1).repeat(32, 0).repeat(32, 1).squeeze()
    return Image.fromarray(four if four.dtype == np.uint16 else four.astype(np.uint8))


def off(file, expected) -> float:
    """How far the four values that `read_square` finds are from those expected, at most."""
    found = read_square(io.BytesIO(file), 16)[:, 4::8, 4::8].reshape(3, 4).T
    return np.abs(found - np.asarray(expected, float).reshape(4, -1)).max()


@pytest.mark.parametrize("profile, values", SPACES, ids=["P3", "Adobe", "ProPhoto"])
def test_the_colours_of_a_profile_come_back_as_srgb(profile, values):
    for kind, mode in [*((kind, "RGB") for kind in KINDS), ("PNG", "RGBA"), ("PNG", "P")]:
        picture = patches(values).convert(mode)
        tagged = as_file(picture, kind, icc_profile=profile, **KINDS[kind])
        assert off(tagged, COLORS) <= (6 if kind in LOSSY else 2), (kind, mode)
        assert off(as_file(picture, kind), COLORS) > 9


def test_profiles_of_grey_and_ink_are_applied_and_broken_ones_are_not():
    greys, flat = patches([30, 90, 160, 250]), icc(b"GRAY", {b"kTRC": CURVE + fixed(1, 1, 0, 0, 0)})
    for picture in (greys, greys.convert("LA")):
        assert off(as_file(picture, "PNG", icc_profile=flat), [96, 160, 208, 253]) <= 1
    assert off(as_file(greys, "PNG", icc_profile=ADOBE_RGB), [24, 90, 161, 250]) <= 1
    ramp, eye = bytes(range(256)), fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    which = [0, *(1 + i % 4 for i in range(14)), 5]  # colour has each mixture of four inks
    lab = np.array([[255, 128, 128], *LAB, [0, 128, 128]], np.uint8)[which]
    table = b"mft1\0\0\0\0\4\3\2\0" + eye + ramp * 4 + lab.tobytes() + ramp * 3
    press, mixed = icc(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab "), [4, 1, 6, 15]
    drops = patches([[255 * (i >> bit & 1) for bit in (3, 2, 1, 0)] for i in mixed])
    ink = Image.frombytes("CMYK", drops.size, drops.tobytes())
    for kind in ("TIFF", "JPEG"):
        assert off(as_file(ink, kind, icc_profile=press), [*COLORS[[3, 0, 1]], [0] * 3]) <= 3
    for broken in (b"", b"?", DISPLAY_P3[:150], DISPLAY_P3[:200] + bytes(400), press, flat):
        assert off(as_file(patches(COLORS), "PNG", icc_profile=broken), COLORS) == 0


def test_what_is_transparent_becomes_white():
    half, p3 = patches(COLORS), patches(IN_P3)
    key = as_file(half, "PNG", transparency=(200, 80, 60))
    assert off(key, [[255] * 3, *COLORS[1:]]) == 0
    for picture in (half, p3):
        picture.putalpha(patches([0, 255, 255, 0]))
    tagged = as_file(p3, "PNG", icc_profile=DISPLAY_P3)
    for file in (as_file(half, "PNG"), as_file(half.quantize(), "PNG"), tagged):
        assert off(file, [[255] * 3, *COLORS[1:3], [255] * 3]) <= 2


def test_the_mode_decides_what_white_is():
    for brightest in (200, 255, 256, 4095, 65535):
        values = np.array([0, brightest // 3, brightest // 2, brightest])
        deep = patches(values.astype(np.uint16))
        big = Image.frombytes("I;16B", deep.size, np.asarray(deep).astype(">u2").tobytes())
        files = [as_file(deep, kind) for kind in ("PNG", "PPM", "JPEG2000", "TIFF")]
        files.append(as_file(big, "TIFF"))
        assert max(off(file, values / 257) for file in files) <= 0.5
        dim = read_square(io.BytesIO(files[-1]), 16)  # Pillow shrinks such a TIFF wrongly, at edges
        assert dim.max() <= brightest / 257 * 1.3 + 1
    rows = b"\x3f\xf3\xff" * 2048  # a TIFF of 12 bits, which Pillow opens as 16: all are 1023
    tags = {256: 64, 257: 64, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 64, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiff = struct.pack("<4sI6144sH", b"II*", 8 + len(rows), rows, len(tags)) + entries + bytes(4)
    assert off(tiff, [1023 * 255 / 4095] * 4) <= 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_stands_upright(kind):
    for tag, undone in enumerate((0, 3, 1, 5, 2, 6, 4), 2):  # by the camera: flipped, turned, both
        exif = Image.Exif()
        exif[0x0112] = tag
        turned = patches(COLORS).transpose(Image.Transpose(undone))
        assert off(as_file(turned, kind, exif=exif, **KINDS[kind]), COLORS) <= 3, tag


def test_a_photograph_of_ones_own_is_whole_upright_and_srgb_or_one_sentence_says_why_not(
    tmp_path, monkeypatch
):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side
    wide, path = patches(IN_P3).resize((64, 32), Image.Resampling.NEAREST), tmp_path / "my.photo.png"
    wide.save(path, icc_profile=DISPLAY_P3, exif=exif)
    found, upright = photograph(path), COLORS.reshape(2, 2, 3).transpose(1, 0, 2)[:, ::-1]
    assert found.shape == (3, 64, 32) and found.dtype == torch.uint8 and found.is_contiguous()
    assert np.abs(found[:, 16::32, 8::16].permute(1, 2, 0).numpy() - upright).max() <= 2
    noise(5, 40, 60).save(tmp_path / "small.png")
    assert np.array_equal(photograph(str(tmp_path / "small.png")).permute(1, 2, 0), noise(5, 40, 60))
    noise(6, 3000, 1500).save(tmp_path / "large.jpg")
    assert photograph(tmp_path / "large.jpg").shape == (3, 1024, 512)
    monkeypatch.chdir(tmp_path)
    assert photograph("small.png").shape == (3, 40, 60)
    Path("a.heic").write_bytes(b"\0\0\0\x24ftypheic" + bytes(99))
    Path("cut.jpg").write_bytes(as_file(noise(1))[:900])
    for name, error, says in [
        ("camara", FileNotFoundError, "no photograph is called 'camara', and no file is at .*/camara"),
        (".", FileNotFoundError, "no file is at"),
        ("", FileNotFoundError, "no photograph is called ''"),
        ("~no-one/cat.jpg", ValueError, "~no-one stands for nothing"),
        ("a.heic", ValueError, "a.heic: .* export it as JPEG"),
        ("cut.jpg", OSError, "truncated"),
    ]:
        with pytest.raises(error, match=says):
            photograph(name)


def test_memory_does_not_grow_with_the_cores(tmp_path):
    """Pictures of 89 megapixels (or 16, with less room) on six threads: one at a time."""
    side, room, most = (9450, 64, 1000) if STRESS else (4000, 16, 300)
    (large := tmp_path / "large").mkdir()
    for i, mode in enumerate(("RGB", "RGBA", "P") * 2):
        red = Image.new("RGB", (side, side), "red")
        red.convert(mode).save(large / f"{i}.png", compress_level=1)
        if STRESS:  # such a JPEG keeps all of it while it shrinks, which shows in large ones alone
            red.save(large / f"{i}.jpg", progressive=True, subsampling=0)
    program = f"""import os, sys; import colorize_utils.files.pictures as p
os.cpu_count, p.MEGAPIXELS, p.FREE = lambda: 6, {room}, p.threading.Semaphore({room})
def most(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
before = most(); s = p.prepare(sys.argv[1], 16, sys.argv[2]); print(before, most(), len(s.names))"""
    said = subprocess.check_output([sys.executable, "-c", program, large, tmp_path / "s"], cwd=ROOT)
    before, peak, used = map(int, said.split())
    assert used == 6 + 6 * bool(STRESS) and peak - before < most and peak < 1500, (before, peak)


@pytest.fixture
def start(tmp_path):
    """Begins to prepare 400 files, 8 of them broken, slowly and in another process."""
    (tmp_path / "many").mkdir()
    for i in range(400):
        (tmp_path / "many" / f"{i}.jpg").write_bytes(as_file(noise(i)) if i % 50 else b"broken")
    program = """import sys, time; import colorize_utils.files.pictures as p; read = p.read_square
p.read_square = lambda *file: time.sleep(0.01) or read(*file)
print("ready", len(p.prepare(sys.argv[1], 16, sys.argv[2]).names))"""
    command = [sys.executable, "-c", program, tmp_path / "many", tmp_path / "store"]
    rows = tmp_path / "store.partial" / "pictures.npy"

    def begin(until=0):
        process = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True)
        while until and not (rows.is_file() and rows.stat().st_size >= until * 768):
            assert process.poll() is None
            time.sleep(0.005)
        return process

    return begin


def test_a_source_that_vanishes_or_a_kill_leaves_what_was_there(start, tmp_path):
    folder, kills = tmp_path / "many", 20 if STRESS else 3
    whole = prepare(folder, 16, tmp_path / "store").pictures.clone()
    (folder / "1.jpg").unlink()
    process = start(until=40)
    folder.rename(tmp_path / "away")
    last = process.communicate()[1].splitlines()[-1]
    assert "many was not prepared" in last and ".jpg: No such file or directory" in last
    (tmp_path / "away").rename(folder)
    for kill in range(1, kills + 1):
        process = start(until=300 * kill // kills)
        process.kill()
        process.wait()
        assert np.array_equal(np.load(tmp_path / "store" / "pictures.npy"), whole)
    store, fresh = prepare(folder, 16, tmp_path / "store"), prepare(folder, 16, tmp_path / "fresh")
    assert torch.equal(store.pictures, fresh.pictures) and len(store.names) == 391
    assert sorted(os.listdir(tmp_path)) == [".fresh.lock", ".store.lock", "fresh", "many", "store"]


def test_two_preparations_at_once_do_no_harm(start, tmp_path):
    said = "".join(process.communicate()[0] for process in (start(), start()))
    assert said.count("ready 392") == 2 and "another process is at work on" in said
    store, fresh = (prepare(tmp_path / "many", 16, tmp_path / name) for name in ("store", "fresh"))
    assert torch.equal(store.pictures, fresh.pictures)


def test_a_disk_that_fails_or_is_full_is_no_bad_picture(photos, tmp_path, monkeypatch):
    for number, advice in ((errno.EIO, "the drive is gone: mount it"), (errno.ENOSPC, "make room")):
        errors = [OSError(number, os.strerror(number)) for _ in range(60)]
        monkeypatch.setattr(pictures, "read_square", Mock(side_effect=errors))
        with pytest.raises(OSError, match=f"with image_size=8: cats/1.PNG: .*: {advice}"):
            prepare(photos, 8, tmp_path / "store")
        assert sorted(os.listdir(tmp_path)) == [".store.lock", "photos"]
