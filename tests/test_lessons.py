"""The lessons as files, and every lesson executed on a real kernel with its knobs turned down."""

import os
import re
import shutil
import subprocess
import sys

import generate
import lessons as tool
import nbformat
import pytest
from colab import twice
from conftest import python
from lessons import ROOT, code, read

LESSONS = tool.lessons()
QUICK = {"DATA": "sample", "IMAGE_SIZE": 16, "BASE_WIDTH": 4, "EPOCHS": 1, "BATCH_SIZE": 64}


def test_local_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("experiments/*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target.strip('"\\')).exists(), f"{path.name}: {target}"


def test_the_owner_stands_in_one_place_and_one_command_spreads_it(copy_course, tmp_path):
    owner = generate.repository().split("/")[-2]
    project = copy_course(tmp_path) / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace(f"/{owner}/", "/some-body/"), "utf-8")
    subprocess.run([sys.executable, "tools/generate.py"], cwd=tmp_path, check=True)
    for path in [*LESSONS, ROOT / "README.md"]:
        text, new = (x.read_text("utf-8") for x in (path, tmp_path / path.relative_to(ROOT)))
        assert new == text.replace(f"/{owner}/image", "/some-body/image") != text, path.name


def test_knobs_can_only_be_set_where_they_exist():
    assert tool.parse(["EPOCHS=3", "DATA=cifar100"]) == {"EPOCHS": 3, "DATA": "cifar100"}
    with pytest.raises(SystemExit, match="no lesson has a knob 'EPOCH'"):
        tool.parse(["EPOCH=3"])


def test_clean_keeps_what_colab_and_the_tools_read():
    outputs = [nbformat.v4.new_output("stream", text=text) for text in ("1", "2\n")]
    kept = {"cellView": "form", "tags": ["timing"]}
    cell = nbformat.v4.new_code_cell(outputs=outputs, metadata={**kept, "collapsed": True})
    tool.clean(nbformat.v4.new_notebook(cells=[cell]))
    assert cell.metadata == kept and [output.text for output in cell.outputs] == ["12\n"]


def test_make_run_opens_with_coloured_photographs(tmp_path):
    assert tool.colored_photographs(tmp_path).stat().st_size > 50_000


def run_alone(path, folder, env):
    """A lesson, and nothing else, in a folder: no complaint, every picture; returns what it printed."""
    again = path.stem.startswith("04")  # Run all, and once more in the same kernel
    (twice if again else shutil.copy)(path, folder / path.name)
    notebook = read(folder / path.name)
    code(notebook)[-1].source += "\nimport colorize_utils\nprint('FROM', colorize_utils.__file__)"
    nbformat.write(notebook, folder / path.name)
    done = tool.execute(folder / path.name, values=QUICK, folder=folder, env=env, watch=True)
    outputs = [output for cell in code(done) for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    assert str(done).count("'image/jpeg'") == str(notebook).count("'image/jpeg'")
    printed = "".join(map(tool.text_of, done.cells))
    assert f"FROM {folder / 'image-colorization-unet'}" in printed
    return printed


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_opened_alone_in_an_empty_folder_works(path, elsewhere, tmp_path):
    printed = run_alone(path, tmp_path, elsewhere)
    run = tmp_path / "image-colorization-unet" / "data" / "runs" / "sample_16px_w4"
    if path.stem.startswith("04"):  # and lesson 05 shows the net that it left
        assert "training for" not in run_alone(LESSONS[4], tmp_path, elsewhere)
    if path.stem.startswith("05"):
        assert "training for about half a minute" in printed
        assert (run / "before_after.jpg").stat().st_size > 10_000


def setup(folder, env):
    which = "\nimport colorize_utils.lab as lab\nprint(lab.__file__)"
    return python(code(read(LESSONS[0]))[0].source + which, folder, env)


def test_setup_clones_shallowly_only_once_and_imports_no_other_copy(elsewhere, tmp_path):
    folder = tmp_path / "shared" / "Übung 1, été"
    for planted, name in ((tmp_path, "data"), (folder.parent, "lab"), (folder, "lab")):
        package = planted / "colorize_utils"
        package.mkdir(parents=True)
        for file in ("__init__.py", f"{name}.py"):
            (package / file).write_text("raise ImportError('this is not the course')")
    env = elsewhere | {"PYTHONPATH": os.pathsep.join([elsewhere["PYTHONPATH"], str(tmp_path)])}
    clone = folder / "image-colorization-unet"
    for address in (elsewhere["COLORIZE_REPO"], "file:///nowhere"):
        done = setup(folder, env | {"COLORIZE_REPO": address})
        assert done.stdout.strip() == str(clone / "colorize_utils" / "lab.py"), done.stderr
    assert (clone / ".git" / "shallow").is_file()


def test_setup_in_an_unpacked_zip_needs_no_git(copy_course, elsewhere, tmp_path):
    course = copy_course(tmp_path / "image-colorization-unet-main")
    done = setup(course / "notebooks", elsewhere | {"PATH": str(tmp_path)})
    assert done.stdout.strip() == str(course / "colorize_utils" / "lab.py"), done.stderr


def test_setup_names_the_address_where_it_cannot_fetch(elsewhere, tmp_path):
    nowhere = (tmp_path / "nothing").as_uri()
    assert nowhere in setup(tmp_path, elsewhere | {"COLORIZE_REPO": nowhere}).stderr
    assert os.listdir(tmp_path) == []
    (tmp_path / "image-colorization-unet").write_text("a file where the clone should go")
    assert elsewhere["COLORIZE_REPO"] in setup(tmp_path, elsewhere).stderr


def test_modules_import_without_jupyter_nbdev_and_matplotlib_and_files_without_any_lesson():
    package = ROOT / "colorize_utils"
    modules = {f"colorize_utils.{p.stem}" for p in package.glob("*.py") if p.stem[0] != "_"}
    files = {f"colorize_utils.files.{p.stem}" for p in package.glob("files/*.py")}
    draws = {"colorize_utils.visualization"}
    jupyter = {"nbdev", "jupyter", "jupyter_client", "IPython", "ipykernel", "ipywidgets", "nbformat"}
    cases = (files, modules | {"matplotlib"}), (modules - draws, {"matplotlib"}), (draws, set())
    for names, blocked in cases:
        program = f"import sys\nsys.modules.update(dict.fromkeys({jupyter | blocked}))\n"
        program += "".join(f"import {name}\n" for name in names)
        assert not (done := python(program, ROOT)).returncode, done.stderr
