"""Lesson 00, pasted into one file in an empty folder: it needs nothing of ours, and its net is the course's."""

import ast
import re

import lessons as tool
import pytest
import torch
from conftest import python

from colorize_utils.unet import UNet

ALLOWED = {"warnings", "torch", "torchvision", "numpy", "skimage", "matplotlib", "tqdm"}
QUICK = {"DATA": "sample", "BASE_WIDTH": 4, "EPOCHS": 1}
# every figure becomes a file; 66 pictures stand in for CIFAR-100, which is 169 MB
BEGIN = """import numpy, torchvision, matplotlib.pyplot as plt
plt.show = lambda: plt.gcf().savefig(f"{plt.gcf().number}.png")
class FewPictures:
    def __init__(self, root, download):
        self.data = numpy.random.default_rng(0).integers(0, 256, (66, 32, 32, 3)).astype("uint8")
        open("cifar100_was_read", "w").close()
torchvision.datasets.CIFAR100 = FewPictures
"""
END = """
x = torch.rand(1, 1, 48, 32)
torch.save((model.eval().cpu().state_dict(), x, model(x).detach()), "net.pt")
"""


def page(**knobs) -> str:
    """The lesson's code as one plain Python file, with these knobs."""
    notebook = tool.read(tool.chosen("00")[0])
    tool.set_knobs(notebook, QUICK | knobs)
    lines = "\n\n".join(cell.source for cell in tool.code(notebook)).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def as_ours(state: dict) -> dict:
    """The page's weights under the names of colorize_utils.unet.UNet."""
    renamed = {re.sub(r"^down\.(\d)", r"down.\1.1", name): value for name, value in state.items()}
    renamed = {re.sub(r"^up\.(\d)", r"up.\1.convs", name): value for name, value in renamed.items()}
    return {re.sub(r"^enlarge\.(\d)", r"up.\1.enlarge", name): value for name, value in renamed.items()}


def test_the_page_imports_five_packages_and_none_of_ours():
    nodes = list(ast.walk(ast.parse(page())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= ALLOWED
    assert len([line for line in page().splitlines() if line.strip()]) <= 90


@pytest.mark.parametrize(
    "knobs, parameters, pictures",
    [
        ({"EPOCHS": 2}, "122,394", "sample"),
        ({"DATA": "cifar100", "BASE_WIDTH": 64}, "31,042,434", "cifar100"),
    ],
    ids=["sample", "the full net on a stand-in for CIFAR-100"],
)
def test_the_page_runs_in_an_empty_folder_and_its_net_is_the_courses(
    knobs, parameters, pictures, elsewhere, tmp_path
):
    done = python(BEGIN + page(**knobs) + END, tmp_path, elsewhere)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith(f"{parameters} parameters\n")
    errors = list(map(float, re.findall(r"^epoch \d: error (.+)$", done.stdout, re.M)))
    assert len(errors) == (QUICK | knobs)["EPOCHS"]
    assert len(errors) == 1 or errors[1] < 0.8 * errors[0]  # it learns
    figures = {f"{number}.png" for number in range(1, 6)}
    read = {"cifar100_was_read"} if pictures == "cifar100" else set()
    assert {path.name for path in tmp_path.iterdir()} == figures | read | {"net.pt"}

    state, x, out = torch.load(tmp_path / "net.pt", weights_only=True)
    ours = UNet(base_width=(QUICK | knobs)["BASE_WIDTH"]).eval()
    ours.load_state_dict(as_ours(state))  # strict: each name, each shape
    assert f"{sum(p.numel() for p in ours.parameters()):,}" == parameters
    torch.testing.assert_close(ours(x), out)
    ours.up[0].convs[0].weight.data = ours.up[0].convs[0].weight.data.flip(1)
    assert not torch.allclose(ours(x), out)  # another order of the skips would show


@pytest.mark.parametrize(
    "knob, wrong, said",
    [
        ("DATA", "nonsense", 'DATA must be "sample" or "cifar100", not \'nonsense\''),
        ("BASE_WIDTH", 0, "BASE_WIDTH, EPOCHS: whole numbers, 1 to 2048"),
        ("BASE_WIDTH", "16", "BASE_WIDTH, EPOCHS: whole numbers, 1 to 2048"),
        ("EPOCHS", -1, "BASE_WIDTH, EPOCHS: whole numbers, 1 to 2048"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_done(knob, wrong, said, elsewhere, tmp_path):
    done = python(page(**{knob: wrong}), tmp_path, elsewhere)
    assert done.stderr.strip().splitlines()[-1] == f"AssertionError: {said}" and not done.stdout
