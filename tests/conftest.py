import os
import subprocess
import sys

os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import pytest
import torch

from colorize_utils.data import Images

torch.set_num_threads(1)  # the nets here are tiny; more threads only wait for each other

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def tiny() -> Images:
    """70, 20 and 10 noisy pictures of 16 x 16 pixels."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(100, 3, 4, 4, generator=generator) * 255
    pixels = torch.nn.functional.interpolate(low, size=16, mode="bilinear").round().byte()
    return Images(pixels[:70], pixels[70:90], pixels[90:])


@pytest.fixture(scope="session")
def real_cifar100() -> Path:
    """The folder that holds the real CIFAR-100; the test is skipped where it is absent."""
    root = Path(os.environ.get("COLORIZE_DATA", ROOT / "data"))
    if not (root / "cifar-100-python" / "train").is_file():
        pytest.skip(f"the real CIFAR-100 is not in {root}: put it there, or set COLORIZE_DATA")
    return root


@pytest.fixture
def as_nobody(tmp_path, tmp_path_factory):
    """Runs a program as another user, who may enter tmp_path but is bound by the permissions below it."""
    if not hasattr(os, "setuid") or os.getuid():
        pytest.skip("needs root, to become somebody else")
    top = tmp_path_factory.getbasetemp().parent  # pytest's own folders, nothing above them
    for place in [tmp_path, *tmp_path.parents]:
        if place == top or top in place.parents:
            place.chmod(0o777)

    def run(program, *arguments):
        first = "import os, sys\nfrom PIL import Image\nImage.init()\nimport colorize_utils.files.pictures\nos.setuid(65534)\n"
        command = [sys.executable, "-c", first + program, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run
