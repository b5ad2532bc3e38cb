import os
import shutil
import subprocess
import sys
from pathlib import Path

# the nets here are tiny: more threads only wait for each other, in the lessons' kernels too
os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ.setdefault("MPLBACKEND", "agg")

import pytest

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = f"""import sys
sys.path[:] = [p for p in sys.path if p.rstrip("/") != {str(ROOT)!r}]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f"{{f!r}}{{type(f)!r}}".lower()]
"""


def python(program, cwd, env=None, *arguments):
    command = [sys.executable, "-X", "utf8", "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture(scope="session")
def copy_course():
    """Copies into a folder what git has, or would take: no data sets, no runs."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]

    def copy(target: Path) -> Path:
        names = subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        for name in filter(os.path.isfile, map(ROOT.joinpath, names.strip("\0").split("\0"))):
            there = target / name.relative_to(ROOT)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, there)
        return target

    return copy


@pytest.fixture(scope="session")
def elsewhere(copy_course, tmp_path_factory) -> dict:
    """The environment of a Python that has nothing of the course, but an address to clone it from."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "sitecustomize.py").write_text(HIDDEN)
    repository = copy_course(folder / "repository")
    author = "-c user.name=test -c user.email=test@localhost -c commit.gpgsign=false"
    for command in ("init -q", "add -A", f"{author} commit -qm all"):
        subprocess.run(["git", *command.split()], cwd=repository, check=True)
    env = os.environ | {"PYTHONPATH": str(folder), "COLORIZE_REPO": repository.as_uri()}
    assert python("import colorize_utils", folder, env).returncode
    return env


@pytest.fixture(scope="session")
def tiny():
    """`Images`: 70, 20 and 10 noisy pictures of 16 x 16 pixels."""
    import torch

    from colorize_utils.data import Images

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
    """Runs a program as another user, who may enter tmp_path, and pytest's folders above it, no others."""
    if not hasattr(os, "setuid") or os.getuid():
        pytest.skip("needs root, to become somebody else")
    top = tmp_path_factory.getbasetemp().parents["PYTEST_XDIST_WORKER" in os.environ]
    for place in [tmp_path, *tmp_path.parents]:
        if place.is_relative_to(top):
            place.chmod(place.stat().st_mode | 0o777)  # a sticky /tmp stays sticky

    def run(program, *arguments):
        first = "import os, sys, PIL.Image, colorize_utils.files.pictures\nPIL.Image.init()\n"
        first += "os.setuid(65534)\n"
        return python(first + program, ROOT, None, *arguments)

    return run
