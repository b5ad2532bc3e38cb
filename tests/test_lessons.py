"""The lessons as files, and every lesson executed on a real kernel with its knobs turned down."""

import ast
import os
import re
import subprocess
import sys

import generate
import lessons as tool
import nbformat
import pytest
from conftest import python
from lessons import ROOT, code, read
from nbclient.exceptions import CellExecutionError

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


def run(path, source, folder, env=None, **knobs):
    """Execute a notebook in a folder: no complaint; returns it, executed."""
    nbformat.write(source, folder / path.name)
    done = tool.execute(folder / path.name, values=QUICK | knobs, folder=folder, env=env, watch=True)
    outputs = [output for cell in code(done) for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    return done


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_opened_alone_in_an_empty_folder_works_with_every_cell_run_twice(
    path, elsewhere, tmp_path
):
    notebook = read(path)
    pictures = str(notebook).count("'image/jpeg'")
    again = [nbformat.from_dict({**cell, "id": f"again-{i}"}) for i, cell in enumerate(notebook.cells)]
    notebook.cells = [cell for pair in zip(notebook.cells, again) for cell in pair]
    if not path.name.startswith("00"):
        code(notebook)[-1].source += "\nimport colorize_utils\nprint('FROM', colorize_utils.__file__)"
    done = run(path, notebook, tmp_path, elsewhere)
    assert str(done).count("'image/jpeg'") == 2 * pictures
    if not path.name.startswith("00"):
        assert f"FROM {tmp_path / 'image-colorization-unet'}" in "".join(map(tool.text_of, done.cells))


def defined_and_used(cell) -> tuple[set, set]:
    """The names that a cell binds, and those that it reads."""
    tree = ast.parse("\n".join(line for line in cell.source.splitlines() if line[:1] not in "%!"))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    made = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    made |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    made |= {(n.asname or n.name).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.alias)}
    return made, {node.id for node in names if isinstance(node.ctx, ast.Load)}


def needed_later(cells, i) -> set:
    """The names that cell i defines and a later one reads."""
    return defined_and_used(cells[i])[0] & set().union(*(defined_and_used(c)[1] for c in cells[i + 1 :]))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_works_without_the_cells_that_no_later_cell_needs(path, copy_course, tmp_path):
    notebook = read(path)
    cells = code(notebook)
    left_out = [cell for i, cell in enumerate(cells) if not needed_later(cells, i)]
    assert left_out
    notebook.cells = [cell for cell in notebook.cells if cell not in left_out]
    copy_course(tmp_path)
    run(path, notebook, tmp_path / "notebooks")


# of every lesson it takes a quarter of an hour: make test-all
@pytest.mark.parametrize(
    "path", LESSONS if "STRESS" in os.environ else tool.chosen("02"), ids=lambda path: path.stem
)
def test_a_cell_that_is_needed_and_was_left_out_is_named(path, copy_course, tmp_path):
    copy_course(tmp_path)
    for i in range(len(code(read(path)))):
        notebook = read(path)
        cells = code(notebook)
        if not (needed := needed_later(cells, i)):
            continue
        notebook.cells.remove(cells[i])
        nbformat.write(notebook, tmp_path / "notebooks" / path.name)
        try:
            tool.execute(tmp_path / "notebooks" / path.name, values=QUICK, folder=tmp_path / "notebooks")
        except CellExecutionError as error:
            said = str(error).strip().splitlines()[-1]
            missing = re.search("name '(.+)' is not defined|No module named '(colorize_utils)", said)
            assert missing and {missing[1]} <= needed | {None}, (i, said)


@pytest.mark.parametrize("path", tool.solutions(), ids=lambda path: path.stem)
def test_the_solutions_of_a_lesson_run(path, copy_course, tmp_path):
    copy_course(tmp_path)
    run(path, read(path), tmp_path / "notebooks" / "solutions")


def setup(folder, env):
    which = "\nimport colorize_utils.lab as lab\nprint(lab.__file__)"
    return python(code(read(tool.chosen("01")[0]))[0].source + which, folder, env)


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
