"""Pictures prepared once: every source, every kind of bad file, and what happens when preparing is cut off."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_utils.data import is_grey
from colorize_utils.files.pictures import Folder, Zip, open_source, prepare, read_square

ROOT = Path(__file__).resolve().parents[1]
KILLS = 20 if os.environ.get("STRESS") else 3


def noise(seed, height=40, width=60):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    """60 pictures in two folders."""
    for i in range(60):
        place = tmp_path / "photos" / ("cats" if i % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        noise(i).save(place / f"{i}.{('jpg', 'PNG', 'bmp')[i % 3]}")
    return tmp_path / "photos"


def packed(folder, target):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    return target


# ---- the store ----


def test_a_store_is_numpys_format_and_keeps_the_order(photos, tmp_path):
    store = prepare(photos, 24, tmp_path / "store", order=lambda name: name[::-1])
    assert store.pictures.shape == (60, 3, 24, 24) and store.pictures.dtype == torch.uint8
    assert store.names == sorted(store.names, key=lambda name: name[::-1]) and store.skipped == {}
    assert np.array_equal(np.load(store.folder / "pictures.npy"), store.pictures.numpy())
    for i in (0, 31, 59):
        with Image.open(photos / store.names[i]) as photo:
            middle = (
                photo.convert("RGB").crop((10, 0, 50, 40)).resize((24, 24), Image.Resampling.BICUBIC)
            )
        difference = np.abs(store.pictures[i].permute(1, 2, 0).numpy().astype(int) - np.asarray(middle))
        assert difference.mean() < 1, store.names[i]
    assert os.listdir(tmp_path / "store") and not (tmp_path / "store.partial").exists()


def test_a_store_that_is_there_is_not_made_again(photos, tmp_path, capsys):
    first = prepare(photos, 16, tmp_path / "store")
    made = (first.folder / "pictures.npy").stat().st_mtime_ns
    again = prepare(photos, 16, tmp_path / "store")
    assert (again.folder / "pictures.npy").stat().st_mtime_ns == made
    assert torch.equal(first.pictures, again.pictures) and capsys.readouterr().out == ""


@pytest.mark.parametrize("change", ["content", "new", "gone", "size", "grey", "mode", "target"])
def test_a_changed_source_or_size_is_noticed(change, photos, tmp_path, capsys):
    target = tmp_path / "target.png"
    noise(7).save(target)
    (photos / "link.png").symlink_to(target)
    Image.new("RGB", (40, 60), "grey").save(photos / "grey.png")
    prepare(photos, 16, tmp_path / "store")
    size, unwanted, count, skipped = 16, None, 62, {}
    if change == "content":
        Image.new("RGB", (40, 60), "red").save(photos / "cats" / "1.PNG")
    elif change == "new":
        noise(99).save(photos / "new.png")
        count = 63
    elif change == "gone":
        (photos / "cats" / "1.PNG").unlink()
        count = 61
    elif change == "size":
        size = 18
    elif change == "mode":
        (photos / "cats" / "1.PNG").chmod(0o600)
    elif change == "target":
        noise(8, 50, 50).save(target)
    else:
        unwanted, count, skipped = ("no colour", is_grey), 61, {"grey.png": "no colour"}
    new = prepare(photos, size, tmp_path / "store", unwanted=unwanted)
    assert "preparing it again" in capsys.readouterr().out
    assert new.pictures.shape == (count, 3, size, size) and new.skipped == skipped
    fresh = prepare(photos, size, tmp_path / "fresh", unwanted=unwanted)
    assert torch.equal(new.pictures, fresh.pictures)


@pytest.mark.parametrize("damage", ["index", "empty index", "short", "long", "no pictures"])
def test_a_damaged_store_is_prepared_again(damage, photos, tmp_path, capsys):
    whole = prepare(photos, 16, tmp_path / "store").pictures.clone()
    index, pictures = tmp_path / "store" / "index.json", tmp_path / "store" / "pictures.npy"
    content = pictures.read_bytes()
    if damage == "no pictures":
        pictures.unlink()
    elif "index" in damage:
        index.write_text("" if "empty" in damage else '{"made')
    else:
        pictures.write_bytes(content[:-5] if damage == "short" else content + b"x")
    assert torch.equal(prepare(photos, 16, tmp_path / "store").pictures, whole)
    assert (
        "photos has changed since, or its store is damaged: preparing it again"
        in capsys.readouterr().out
    )


def test_what_a_user_writes_into_a_picture_stays_out_of_the_store(photos, tmp_path):
    store = prepare(photos, 16, tmp_path / "store")
    store.pictures[:] = 7
    assert (prepare(photos, 16, tmp_path / "store").pictures != 7).any()


def test_a_zip_gives_what_its_folder_gives(photos, tmp_path):
    plain = prepare(photos, 16, tmp_path / "plain")
    zipped = prepare(packed(photos, tmp_path / "photos.zip"), 16, tmp_path / "zipped")
    assert zipped.names == plain.names and torch.equal(zipped.pictures, plain.pictures)
    (tmp_path / "only").mkdir()
    (tmp_path / "photos.zip").rename(tmp_path / "only" / "train.zip")
    assert torch.equal(prepare(tmp_path / "only", 16, tmp_path / "found").pictures, plain.pictures)


# ---- bad pictures ----


def jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


def bad_pictures(folder):
    """Files that have to be used, and those that can't be, by name."""
    red = Image.new("RGB", (40, 20), "red")
    good = {"rgb.png": red, "cmyk.jpg": red.convert("CMYK"), "palette.gif": red.convert("P"),
            "alpha.png": Image.new("RGBA", (40, 20), (255, 0, 0, 0)), "one_bit.png": red.convert("1"),
            "grey.png": red.convert("L"), "thin.png": Image.new("RGB", (90, 1), "red"), "dot.png": Image.new("RGB", (1, 1)),
            "Ünï cødé 😀.jpg": red, "sixteen.png": Image.fromarray(np.full((9, 9), 40_000, np.uint16)),
            "alpha_palette.png": Image.new("RGBA", (40, 20), (255, 0, 0, 9)).quantize()}  # fmt: skip
    for name, picture in good.items():
        picture.save(folder / name)
    red.save(folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", (40, 20))] * 3)
    (folder / "png_inside.jpg").write_bytes((folder / "rgb.png").read_bytes())
    whole = jpeg(noise(1))
    bad = {"empty.jpg": b"", "text.jpg": b"not a picture", "cut.jpg": whole[: len(whole) // 2],
           "zeros.png": bytes(5000), "page.jpg": b"<html>404</html>"}  # fmt: skip
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    Image.new("L", (10_000, 10_000)).save(folder / "bomb.png")  # small as a file
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.jpg")  # to open it would wait for ever
    Image.fromarray(np.zeros((5, 5), np.float32)).save(folder / "float.tif")
    odd = os.fsencode(folder) + b"/bad\xff.jpg"
    with open(odd, "wb") as file:
        file.write(whole)
    (folder / "self").symlink_to(folder)  # a loop of folders
    (folder.parent / "elsewhere").mkdir()
    red.save(folder.parent / "elsewhere" / "linked.png")
    (folder / "there").symlink_to(folder.parent / "elsewhere")
    used = {*good, "animated.gif", "png_inside.jpg", os.fsdecode(b"bad\xff.jpg"), "there/linked.png"}
    return used, {*bad, "bomb.png", "loop.jpg", "nowhere.jpg", "pipe.jpg", "float.tif"}


def test_every_picture_is_used_or_listed_with_its_reason(tmp_path):
    (tmp_path / "odd").mkdir()
    used, bad = bad_pictures(tmp_path / "odd")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        store = prepare(tmp_path / "odd", 16, tmp_path / "store")
    assert told == []
    assert set(store.names) == used and set(store.skipped) == bad
    assert all(reason and str(tmp_path) not in reason for reason in store.skipped.values()), (
        store.skipped
    )
    assert (
        f"found {len(used) + len(bad)} pictures, used {len(used)}, left out {len(bad)}" in store.report()
    )
    assert "all of them are listed in" in store.report() and "loop.jpg" in store.report(most=99)
    store.report(most=99).encode("utf-8")
    again = prepare(tmp_path / "odd", 16, tmp_path / "store")
    assert again.names == store.names and again.skipped == store.skipped


def test_an_unreadable_file_is_listed(tmp_path, as_nobody):
    folder = tmp_path / "photos"
    folder.mkdir()
    noise(1).save(folder / "open.png")
    noise(2).save(folder / "locked.png")
    (folder / "locked.png").chmod(0)
    program = "from colorize_utils.files.pictures import prepare; print(prepare(sys.argv[1], 8, sys.argv[2]).report())"
    done = as_nobody(program, folder, tmp_path / "store")
    assert "used 1, left out 1" in done.stdout and "locked.png: Permission denied" in done.stdout, (
        done.stderr
    )


def test_transparency_becomes_white(tmp_path):
    for name in ("clear.png", "clear_palette.png"):
        picture = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
        (picture.quantize() if "palette" in name else picture).save(tmp_path / name)
        assert read_square(tmp_path / name, 4).min() == 255


# ---- archives ----


def zip_of(path, *members, mode=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode:
                info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name", ["/etc/cat.jpg", "../cat.jpg", "a/../../cat.jpg", "C:/cat.jpg", "../readme.txt"]
)
def test_an_archive_that_leads_out_of_itself_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is refused: .* leads out of it"):
        Zip(zip_of(tmp_path / "a.zip", ("good.jpg", jpeg(noise(1))), (name, b"x")))


def test_links_bombs_and_damage_in_an_archive_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is a link"):
        Zip(zip_of(tmp_path / "link.zip", ("cat.jpg", "/etc/passwd"), mode=0o120777))
    with pytest.raises(ValueError, match="would unpack to 0.3 GB"):
        Zip(zip_of(tmp_path / "bomb.zip", *((f"{i}.bmp", bytes(10_000_000)) for i in range(30))))
    whole = zip_of(tmp_path / "whole.zip", ("cat.jpg", jpeg(noise(1)))).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no zip, or not all of it.*fetch it again"):
        Zip(tmp_path / "cut.zip")


def test_damaged_and_huge_members_are_listed(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("good.jpg", jpeg(noise(1))), ("flipped.jpg", jpeg(noise(2))), ("huge.bmp", bytes(300 * 2**20)))  # fmt: skip
    raw = bytearray(path.read_bytes())
    info = zipfile.ZipFile(path).getinfo("flipped.jpg")
    raw[info.header_offset + 500] ^= 255
    path.write_bytes(raw)
    import colorize_utils.files.pictures as photos

    photos.MOST_EXPANSION, before = 10_000, photos.MOST_EXPANSION
    try:
        store = prepare(path, 8, tmp_path / "store")
    finally:
        photos.MOST_EXPANSION = before
    assert store.names == ["good.jpg"] and set(store.skipped) == {"flipped.jpg", "huge.bmp"}
    assert store.skipped["huge.bmp"] == "more than 256 MB"


def test_microsofts_and_kaggles_layouts(tmp_path):
    with zipfile.ZipFile(tmp_path / "kagglecatsanddogs_5340.zip", "w") as archive:
        for i in range(3):
            archive.writestr(f"PetImages/Cat/{i}.jpg", jpeg(noise(i)))
        archive.writestr("PetImages/Dog/11702.jpg", b"")
        archive.writestr("PetImages/Dog/Thumbs.db", b"x")
        archive.writestr("readme[1].txt", b"x")
        archive.writestr("__MACOSX/PetImages/Cat/._0.jpg", b"x")
    store = prepare(tmp_path / "kagglecatsanddogs_5340.zip", 8, tmp_path / "store")
    assert store.names == [f"PetImages/Cat/{i}.jpg" for i in range(3)]
    assert list(store.skipped) == ["PetImages/Dog/11702.jpg"]


def test_sources_without_pictures_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder and no zip"):
        open_source(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no picture in"):
        open_source(tmp_path)
    zip_of(tmp_path / "outer.zip", ("train.zip", b"x"))
    with pytest.raises(FileNotFoundError, match="outer.zip.*a zip within a zip has to be unpacked"):
        open_source(tmp_path)
    zip_of(tmp_path / "second.zip", ("a.jpg", b"x"))
    with pytest.raises(FileNotFoundError, match="holds 2 zips"):
        open_source(tmp_path)
    (tmp_path / ".hidden").mkdir()
    noise(1).save(tmp_path / ".hidden" / "a.png")
    assert Folder(tmp_path).files == {}


# ---- cut off ----

PREPARE = """
import sys, time
import colorize_utils.files.pictures as store
store.EVERY = 0.02
read = store.read_square
def slow(file, size):
    time.sleep(0.02)  # so that the test has time to kill
    return read(file, size)
store.read_square = slow
result = store.prepare(sys.argv[1], 16, sys.argv[2], unwanted=None)
print("ready", len(result.names))
"""


def start(source, folder, **options):
    command = [sys.executable, "-c", PREPARE, str(source), str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, **options)


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(400):
        (folder / f"{i}.jpg").write_bytes(jpeg(noise(i)) if i % 50 else b"broken")
    return folder


def done_so_far(folder):
    try:
        return json.loads((folder.with_name("store.partial") / "progress.json").read_text())["done"]
    except (FileNotFoundError, NotADirectoryError):
        return 0


def test_a_killed_preparation_goes_on_where_it_stopped(many, tmp_path):
    whole = prepare(many, 16, tmp_path / "whole")
    stops = [0]
    for kill in range(1, KILLS + 1):
        process = start(many, tmp_path / "store")
        while process.poll() is None and done_so_far(tmp_path / "store") < kill * 300 / KILLS:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stops.append(done_so_far(tmp_path / "store"))
    assert stops == sorted(stops) and 0 < stops[1] and stops[-1] < 400
    process = start(many, tmp_path / "store")
    output, _ = process.communicate()
    assert f"going on after {stops[-1]} of 400 pictures" in output and "ready 392" in output
    store = prepare(many, 16, tmp_path / "store")
    assert torch.equal(store.pictures, whole.pictures) and store.skipped == whole.skipped
    assert sorted(os.listdir(tmp_path / "store")) == ["index.json", "pictures.npy"]


@pytest.mark.parametrize("harm", ["longer", "shorter", "no notes"])
def test_a_power_cut_is_survived(harm, many, tmp_path):
    """What was written after the last note is written again; where less is there than noted, all of it."""
    whole = prepare(many, 16, tmp_path / "whole")
    process = start(many, tmp_path / "store")
    while done_so_far(tmp_path / "store") < 100:
        time.sleep(0.005)
    process.kill()
    process.wait()
    pictures = tmp_path / "store.partial" / "pictures.npy"
    if harm == "longer":
        pictures.write_bytes(pictures.read_bytes() + bytes(5000))
    elif harm == "shorter":
        os.truncate(pictures, 10_000)
    else:
        (tmp_path / "store.partial" / "progress.json").write_bytes(bytes(100))
    assert torch.equal(prepare(many, 16, tmp_path / "store").pictures, whole.pictures)


def test_a_source_that_vanishes_is_an_error_and_no_bad_pictures(many, tmp_path):
    process = start(many, tmp_path / "store", stderr=subprocess.PIPE)
    while done_so_far(tmp_path / "store") < 40:
        time.sleep(0.005)
    many.rename(tmp_path / "away")
    _, errors = process.communicate()
    assert "No such file or directory" in errors and "it goes on from picture" in errors
    (tmp_path / "away").rename(many)
    assert len(prepare(many, 16, tmp_path / "store").names) == 392


def test_a_folder_that_cannot_be_listed_is_an_error(photos, tmp_path, as_nobody):
    (photos / "cats").chmod(0)
    program = "from colorize_utils.files.pictures import prepare; prepare(sys.argv[1], 8, sys.argv[2])"
    done = as_nobody(program, photos, tmp_path / "store")
    assert "Permission denied: make the folder readable, or take it away" in done.stderr


def test_two_preparations_at_once_do_no_harm(many, tmp_path):
    first, second = start(many, tmp_path / "store"), start(many, tmp_path / "store")
    outputs = first.communicate()[0] + second.communicate()[0]
    assert outputs.count("ready 392") == 2 and "another process is preparing store" in outputs
    whole = prepare(many, 16, tmp_path / "whole")
    assert torch.equal(prepare(many, 16, tmp_path / "store").pictures, whole.pictures)


def test_a_full_disk_loses_nothing(photos, tmp_path):
    """A file system of 128 kB: the store needs 414 kB."""
    program = (
        "import sys; import colorize_utils.files.pictures as store; store.EVERY = 0\n"
        "import shutil; usage = shutil.disk_usage\n"
        "if len(sys.argv) > 3: store.shutil.disk_usage = lambda path: usage('/')\n"
        "store.prepare(sys.argv[1], int(sys.argv[4]) if len(sys.argv) > 4 else 48, sys.argv[2])"
    )
    small = tmp_path / "small"
    small.mkdir()
    for known, message in ((True, "make room, or lower IMAGE_SIZE"), (False, "Make room and run again")):
        run = f'mount -t tmpfs -o size=128k none {small} || exit 77; {sys.executable} -c "$0" {photos} {small}/store {"" if known else "x"}; code=$?; cat {small}/store.partial/progress.json; exit $code'
        done = subprocess.run(["unshare", "-rm", "sh", "-c", run, program], cwd=ROOT, capture_output=True, text=True)  # fmt: skip
        if done.returncode in (77, 127):
            pytest.skip("no small file system can be mounted here")
        assert message in done.stderr, done.stderr
        if not known:
            at = json.loads(done.stdout)
            assert at["done"] == at["rows"] >= 5
            last = done.stderr.splitlines()[-1]
            assert "No space left on device. Make room and run again: it goes on from picture" in last
