"""A lesson's code works where the files that it names were copied, and the package from a wheel."""

import re
import subprocess
import sys

import lessons as tool
import pytest
from conftest import ROOT, python

# what each lesson's files must do in a folder of their own; alone: what its own file can do
PROGRAMS = {
    "01 alone": "from colorize_utils.data import load_images; print(load_images('sample', image_size=32).train[:9])",
    "01": "import PIL.Image; from colorize_utils.data import load_images; import os; os.mkdir('cats')\n"
    "for i in range(40): PIL.Image.new('RGB', (40, 30), (i, 9, 0)).save(f'cats/{i}.png')\n"
    "print(load_images('cats', image_size=32).train.shape)",
    "02": "from colorize_utils.lab import lab_to_rgb, rgb_to_lab; print(lab_to_rgb(rgb_to_lab(x)).mean())",
    "03": "from colorize_utils.model_summary import summary; from colorize_utils.unet import UNet\n"
    "print(summary(UNet(base_width=4), (1, 1, 32, 32)))",
    "04": "from colorize_utils.training import fit; print(fit(net, Images(x, x, x), epochs=1, folder='run'))",
    "05": "from colorize_utils.visualization import compare, predict; compare(x[:2], predict(net, x[:2])); print('drawn')",
    "06": "from colorize_utils.measuring import evaluate; from colorize_utils.metrics import PaintMean; print(evaluate(PaintMean(x), Images(x, x, x)))",
    "07": "from colorize_utils.losses import WeightedMSE, rarity_weights; from colorize_utils.metrics import *\n"
    "print(WeightedMSE(rarity_weights(color_frequency(x)))(torch.zeros(8, 2, 9, 9), torch.ones(8, 2, 9, 9)))",
}
BEGIN = """import collections, torch
Images, net = collections.namedtuple("Images", "train validation test"), torch.nn.Conv2d(1, 2, 1)
x = torch.randint(256, (8, 3, 32, 32)).byte()
"""


def files(number: str) -> list[str]:
    """The files of colorize_utils that a lesson names in its last section."""
    (path,) = tool.chosen(number)
    text = "\n".join(cell.source for cell in tool.read(path).cells).partition("## Take it with you")[2]
    return re.findall(r"`([\w/]+\.py)`", re.search(r"Files: (.+)", text)[1])


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_files_of_a_lesson_work_in_an_empty_folder(name, elsewhere, tmp_path):
    for file in files(name[:2])[: 1 if "alone" in name else None]:
        copy = tmp_path / "colorize_utils" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / "colorize_utils" / file).read_bytes())
    done = python(BEGIN + PROGRAMS[name], tmp_path, elsewhere)
    assert done.stdout and not done.returncode, done.stderr


def test_every_lesson_says_which_files_and_they_are_few():
    assert {path.stem[:2] for path in tool.lessons()} - {"00"} <= PROGRAMS.keys()
    assert files("01")[0] == "data.py" and sorted(files("05")) == ["lab.py", "visualization.py"]
    assert sum((ROOT / "colorize_utils" / file).read_text().count("\n") for file in files("06")) <= 800


def test_a_wheel_opens_the_shipped_checkpoint(copy_course, elsewhere, tmp_path):
    course, target = copy_course(tmp_path / "course"), tmp_path / "installed"
    pip = [sys.executable, *"-m pip install -q --no-deps --no-build-isolation --no-index".split()]
    subprocess.run([*pip, "--target", target, course], cwd=tmp_path, check=True)
    program = "from colorize_utils import shipped; shipped.load_shipped(name='mse_w16'); print(shipped.place('mse_w16'))"
    done = python(program, target, elsewhere)
    assert done.stdout.startswith(str(target)), done.stderr
