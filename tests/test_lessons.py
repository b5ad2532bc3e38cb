"""The lessons as files, and every lesson executed on a real kernel with its knobs turned down."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import generate  # noqa: E402
import lessons as tool  # noqa: E402

LESSONS = tool.lessons()
IDS = [path.stem for path in LESSONS]
QUICK = {"DATA": "sample", "BASE_WIDTH": 4, "EPOCHS": 1, "BATCH_SIZE": 64}


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def copy_course(target):
    """What git has, or would take: no data sets, no runs."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


# ---- the files ----


def test_the_core_lessons_are_there():
    assert [path.stem[:2] for path in LESSONS][:5] == ["01", "02", "03", "04", "05"]


def test_local_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("data/*.md")]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            if "://" not in target:
                assert (path.parent / target.strip('"\\')).exists(), f"{path.name}: {target}"


def test_the_owner_stands_in_one_place_and_one_command_spreads_it(tmp_path):
    owner = generate.repository().split("/")[-2]
    for path in [*LESSONS, ROOT / "README.md"]:
        found = re.findall(
            r"/github(?:\.com)?/([\w.-]+)/image-colorization-unet", path.read_text("utf-8")
        )
        assert found and set(found) == {owner}, path.name
    copy = tmp_path / "copy"
    copy_course(copy)
    project = (copy / "pyproject.toml").read_text().replace(f"/{owner}/", "/some-body/")
    (copy / "pyproject.toml").write_text(project)
    subprocess.run([sys.executable, "tools/generate.py"], cwd=copy, check=True)
    for path in [*(copy / "notebooks").glob("*.ipynb"), copy / "README.md"]:
        assert f"/{owner}/image-colorization-unet" not in path.read_text("utf-8")
        assert "/some-body/image-colorization-unet" in path.read_text("utf-8")


def test_knobs_can_only_be_set_where_they_exist():
    assert tool.parse(["EPOCHS=3", "DATA=cifar100"]) == {"EPOCHS": 3, "DATA": "cifar100"}
    with pytest.raises(SystemExit, match="no lesson has a knob 'EPOCH'"):
        tool.parse(["EPOCH=3"])


# ---- executed ----


def no_complaints(notebook):
    for cell in code(notebook):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output


def pictures(notebook):
    return sum(
        "image/jpeg" in output.get("data", {}) for cell in code(notebook) for output in cell.outputs
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("path", LESSONS, ids=IDS)
def test_a_lesson_runs_with_its_knobs_turned_down(path, runs):
    values = {**QUICK, "CHECKPOINT_DIR": str(runs)}
    done = tool.execute(path, values=values, watch=True)
    no_complaints(done)
    assert [cell.id for cell in done.cells] == [cell.id for cell in read(path).cells]
    assert pictures(done) == pictures(read(path))
    if path.stem.startswith("04"):
        assert (runs / "sample_32px_w4" / "best.pt").is_file()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A repository of the course to clone, and the environment of a kernel that has none of it installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    repository = folder / "repository"
    copy_course(repository)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=repository, check=True)
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        f"sys.path[:] = [p for p in sys.path if p.rstrip('/') != {str(ROOT)!r}]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f'{f!r}{type(f)!r}'.lower()]\n"
    )
    env = {"PYTHONPATH": str(folder / "site"), "COLORIZE_REPO": repository.as_uri()}
    probe = [sys.executable, "-c", "import colorize_utils"]
    absent = subprocess.run(probe, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True)
    assert "No module named 'colorize_utils'" in absent.stderr
    return folder, env


@pytest.mark.parametrize("path", LESSONS, ids=IDS)
def test_a_lesson_opened_alone_in_an_empty_folder_works(path, elsewhere, tmp_path):
    _, env = elsewhere
    alone = tmp_path / path.name
    notebook = read(path)
    code(notebook)[-1].source += "\nimport colorize_utils\nprint('FROM', colorize_utils.__file__)"
    if path.stem.startswith("01"):  # Run all, and once more in the same kernel
        again = [
            nbformat.from_dict({**cell, "id": f"again-{i}"}) for i, cell in enumerate(notebook.cells)
        ]
        notebook.cells += again
    nbformat.write(notebook, alone)
    done = tool.execute(alone, values=QUICK, folder=tmp_path, env=env)
    no_complaints(done)
    assert f"FROM {tmp_path / 'image-colorization-unet'}" in tool.text_of(code(done)[-1])


def bootstrap(folder, **env):
    source = code(read(LESSONS[0]))[0].source
    environment = {**os.environ, **env}
    return subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_bootstrap_says_what_to_do_where_it_cannot_fetch(elsewhere, tmp_path):
    folder, env = elsewhere
    nobody = "https://github.com/OWNER/image-colorization-unet"
    placeholder = bootstrap(tmp_path, **{**env, "COLORIZE_REPO": nobody})
    assert "has no owner yet: set COLORIZE_REPO" in placeholder.stderr
    nowhere = bootstrap(tmp_path, **{**env, "COLORIZE_REPO": (folder / "nothing").as_uri()})
    assert "Could not fetch the course." in nowhere.stderr and "as a zip" in nowhere.stderr
    without_git = bootstrap(tmp_path, **{**env, "PATH": str(tmp_path)})
    assert "needs git: install it" in without_git.stderr
    assert os.listdir(tmp_path) == []


def test_bootstrap_clones_shallowly_and_only_once(elsewhere, tmp_path):
    _, env = elsewhere
    assert bootstrap(tmp_path, **env).stdout == "The course is in image-colorization-unet\n"
    clone = tmp_path / "image-colorization-unet"
    assert (clone / ".git" / "shallow").is_file()
    (clone / "mine.txt").write_text("kept")
    assert bootstrap(tmp_path, **{**env, "COLORIZE_REPO": "file:///nowhere"}).returncode == 0
    assert (clone / "mine.txt").is_file()


def test_bootstrap_in_a_folder_with_spaces_and_accents_beside_an_older_copy(elsewhere, tmp_path):
    _, env = elsewhere
    older = tmp_path / "site-packages"
    (older / "colorize_utils").mkdir(parents=True)
    (older / "colorize_utils" / "__init__.py").write_text("raise ImportError('this is the older copy')")
    folder = tmp_path / "Übung 1, été"
    folder.mkdir()
    program = (
        code(read(LESSONS[0]))[0].source + "\nimport colorize_utils.lab as lab\nprint(lab.__file__)"
    )
    environment = {**os.environ, **env, "PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], str(older)])}
    command = [sys.executable, "-X", "utf8", "-c", program]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert str(folder / "image-colorization-unet" / "colorize_utils" / "lab.py") in done.stdout, (
        done.stderr
    )


def test_bootstrap_in_an_unpacked_zip_needs_no_git(elsewhere, tmp_path):
    _, env = elsewhere
    unpacked = tmp_path / "image-colorization-unet-main"
    copy_course(unpacked)
    done = bootstrap(unpacked / "notebooks", **{**env, "PATH": str(tmp_path)})
    assert done.stdout == "The course is in ..\n", done.stderr


def test_bootstrap_where_nothing_can_be_written_says_so(elsewhere, tmp_path):
    _, env = elsewhere
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "image-colorization-unet").write_text("a file where the clone should go")
    done = bootstrap(blocked, **env)
    assert "Could not fetch the course." in done.stderr and "as a zip" in done.stderr


def test_lesson_05_trains_itself_where_there_is_no_checkpoint(tmp_path):
    notebook = tool.execute(LESSONS[4], values={**QUICK, "CHECKPOINT_DIR": str(tmp_path)})
    no_complaints(notebook)
    assert any("training for about half a minute" in tool.text_of(cell) for cell in code(notebook))
    assert (tmp_path / "sample_32px_w4" / "before_after.jpg").stat().st_size > 10_000


def test_make_run_opens_with_coloured_photographs(tmp_path):
    assert tool.colored_photographs(tmp_path).stat().st_size > 50_000


# ---- the package without the tools that made it ----


def test_modules_import_without_jupyter_nbdev_and_matplotlib():
    blocked = ["nbdev", "jupyter", "jupyter_client", "IPython", "ipykernel", "ipywidgets", "nbformat"]
    names = [p.stem for p in (ROOT / "colorize_utils").glob("*.py") if p.stem != "__init__"]
    program = (
        "import sys, importlib\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"names = {sorted(names)!r}\n"
        "for name in ['visualization'] if 'plot' in sys.argv else set(names) - {'visualization'}:\n"
        "    if 'plot' not in sys.argv: sys.modules['matplotlib'] = None\n"
        "    importlib.import_module('colorize_utils.' + name)\n"
    )
    for arguments in ([], ["plot"]):
        subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, check=True)
