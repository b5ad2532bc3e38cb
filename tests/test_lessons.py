"""The lessons as files, and every lesson executed on a real kernel with its knobs turned down."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import generate
import lessons as tool
import nbformat
import pytest
from colab import twice
from lessons import code, read

ROOT = Path(__file__).resolve().parents[1]
LESSONS = tool.lessons()
# as far as the settings let them go
QUICK = {"DATA": "sample", "IMAGE_SIZE": 16, "BASE_WIDTH": 4, "EPOCHS": 1, "BATCH_SIZE": 64}


# ---- the files ----


def test_the_core_lessons_are_there():
    assert [path.stem[:2] for path in LESSONS][:7] == ["01", "02", "03", "04", "05", "06", "07"]


def test_local_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("experiments/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target.strip('"\\')).exists(), f"{path.name}: {target}"


def test_the_owner_stands_in_one_place_and_one_command_spreads_it(copy_course, tmp_path):
    owner = generate.repository().split("/")[-2]
    named = re.compile(r"/github(?:\.com)?/([\w.-]+)/image-colorization-unet")
    for path in [*LESSONS, ROOT / "README.md"]:
        assert set(named.findall(path.read_text("utf-8"))) == {owner}, path.name
    project = copy_course(tmp_path) / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace(f"/{owner}/", "/some-body/"), "utf-8")
    subprocess.run([sys.executable, "tools/generate.py"], cwd=tmp_path, check=True)
    for path in [*(tmp_path / "notebooks").glob("*.ipynb"), tmp_path / "README.md"]:
        assert set(named.findall(path.read_text("utf-8"))) == {"some-body"}, path.name


def test_knobs_can_only_be_set_where_they_exist():
    assert tool.parse(["EPOCHS=3", "DATA=cifar100"]) == {"EPOCHS": 3, "DATA": "cifar100"}
    with pytest.raises(SystemExit, match="no lesson has a knob 'EPOCH'"):
        tool.parse(["EPOCH=3"])


def test_clean_keeps_what_colab_and_the_tools_read():
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("1", "2\n")]
    cell = nbformat.v4.new_code_cell("print(12)", outputs=outputs)
    cell.metadata = {"cellView": "form", "tags": ["timing"], "execution": {}, "collapsed": True}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    tool.clean(notebook)
    assert (
        cell.metadata == {"cellView": "form", "tags": ["timing"]} and "widgets" not in notebook.metadata
    )
    assert [output.text for output in cell.outputs] == ["12\n"]
    cell.outputs[0].name = "stderr"
    with pytest.raises(SystemExit, match="writes to stderr"):
        tool.clean(notebook)


# ---- executed ----


def test_make_run_opens_with_coloured_photographs(tmp_path):
    assert tool.colored_photographs(tmp_path).stat().st_size > 50_000


def run_alone(path, folder, env):
    """A lesson, and nothing else, in a folder: no complaint, every picture; returns what it printed."""
    both = path.stem.startswith("04")  # Run all, and once more in the same kernel
    (twice if both else shutil.copy)(path, folder / path.name)
    notebook = read(folder / path.name)
    code(notebook)[-1].source += "\nimport colorize_utils\nprint('FROM', colorize_utils.__file__)"
    nbformat.write(notebook, folder / path.name)
    done = tool.execute(folder / path.name, values=QUICK, folder=folder, env=env, watch=True)
    outputs = [output for cell in code(done) for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    drawn, kept = (str(n).count("'image/jpeg'") for n in (done, notebook))
    assert drawn == kept
    printed = "".join(map(tool.text_of, done.cells))
    assert f"FROM {folder / 'image-colorization-unet'}" in printed
    return printed


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_opened_alone_in_an_empty_folder_works(path, elsewhere, tmp_path):
    printed = run_alone(path, tmp_path, elsewhere)
    run = tmp_path / "image-colorization-unet" / "data" / "runs" / "sample_16px_w4"
    if path.stem.startswith("04"):  # and lesson 05 shows the net that it left
        assert (run / "best.pt").is_file()
        assert "training for" not in run_alone(LESSONS[4], tmp_path, elsewhere)
    if path.stem.startswith("05"):
        assert "training for about half a minute" in printed
        assert (run / "before_after.jpg").stat().st_size > 10_000


# ---- the setup cell ----


def setup(folder, env, also=""):
    program = code(read(LESSONS[0]))[0].source + also
    command = [sys.executable, "-X", "utf8", "-c", program]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8")


def test_setup_clones_shallowly_only_once_and_imports_no_other_copy(elsewhere, tmp_path):
    folder = tmp_path / "shared" / "Übung 1, été"
    older = tmp_path / "site-packages"
    folder.mkdir(parents=True)
    for planted in (older, tmp_path, tmp_path / "shared", folder):
        package = planted / "colorize_utils"
        package.mkdir(parents=True)
        for name in ("__init__", "data" if planted in (older, tmp_path) else "lab"):
            (package / f"{name}.py").write_text("raise ImportError('this is not the course')")
    path = os.pathsep.join([elsewhere["PYTHONPATH"], str(older), str(tmp_path)])
    clone = folder / "image-colorization-unet"
    which = "\nimport colorize_utils.lab as lab\nprint(lab.__file__)"
    for address in (elsewhere["COLORIZE_REPO"], "file:///nowhere"):
        done = setup(folder, elsewhere | {"PYTHONPATH": path, "COLORIZE_REPO": address}, which)
        assert done.stdout.strip() == str(clone / "colorize_utils" / "lab.py"), done.stderr
    assert (clone / ".git" / "shallow").is_file()


def test_setup_in_an_unpacked_zip_needs_no_git(copy_course, elsewhere, tmp_path):
    course = copy_course(tmp_path / "image-colorization-unet-main")
    env = elsewhere | {"PATH": str(tmp_path)}
    done = setup(course / "notebooks", env, "\nimport colorize_utils\nprint(colorize_utils.__file__)")
    assert done.stdout.strip() == str(course / "colorize_utils" / "__init__.py"), done.stderr


def test_setup_names_the_address_where_it_cannot_fetch(elsewhere, tmp_path):
    nowhere = (tmp_path / "nothing").as_uri()
    assert nowhere in setup(tmp_path, elsewhere | {"COLORIZE_REPO": nowhere}).stderr
    assert os.listdir(tmp_path) == []
    (tmp_path / "image-colorization-unet").write_text("a file where the clone should go")
    done = setup(tmp_path, elsewhere)
    assert elsewhere["COLORIZE_REPO"] in done.stderr and "image-colorization-unet" in done.stderr


# ---- the package without the tools that made it ----


def test_modules_import_without_jupyter_nbdev_and_matplotlib_and_files_without_any_lesson():
    package = ROOT / "colorize_utils"
    names = {f"colorize_utils.{p.stem}" for p in package.glob("*.py") if p.stem[0] != "_"}
    files = {f"colorize_utils.files.{p.stem}" for p in package.glob("files/*.py")}
    program = (
        "import sys, importlib\nnames, blocked = map(eval, sys.argv[1:])\n"
        "for name in blocked: sys.modules[name] = None\nfor name in names: importlib.import_module(name)\n"
        "print([name for name in sys.modules if name.startswith('colorize_utils.')])"
    )
    blocked = ["nbdev", "jupyter", "jupyter_client", "IPython", "ipykernel", "ipywidgets", "nbformat"]
    draws = {"colorize_utils.visualization"}
    for some, without in ((files, ["matplotlib"]), (names - draws, ["matplotlib"]), (draws, [])):
        command = [sys.executable, "-c", program, repr(some), repr(blocked + without)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if some is files:
            assert names.isdisjoint(eval(done.stdout)), done.stdout
