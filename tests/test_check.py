"""Every lesson keeps every rule, and every rule can fail: each has bad lessons that break it."""

import json
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import check  # noqa: E402
import lessons as tool  # noqa: E402

LESSONS = tool.lessons()


@pytest.mark.parametrize("rule", check.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lessons_keep_the_rules(path, rule):
    assert list(rule(check.Lesson(path))) == []


# ---- bad lessons: each function spoils a notebook's JSON ----


def code(raw):
    return [cell for cell in raw["cells"] if cell["cell_type"] == "code"]


def prints(raw, text):
    code(raw)[3]["outputs"].append({"output_type": "stream", "name": "stdout", "text": [text]})


def says(raw, text):
    text_cell = next(cell for cell in raw["cells"][3:] if cell["cell_type"] == "markdown")
    text_cell["source"] = [*text_cell["source"], f"\n\n{text}"]


def replaces(raw, old, new):
    """In every source; the fixture is of no use where there is nothing to replace."""
    found = False
    for cell in raw["cells"]:
        source = "".join(cell["source"])
        found |= old in source
        cell["source"] = source.replace(old, new).splitlines(keepends=True)
    assert found, old


def an_error(raw):
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    code(raw)[3]["outputs"].append(error)


def an_array(numbers):
    return "[" + ", ".join("0.1250" for _ in range(numbers)) + "]"


BAD = [
    (check.executed_in_order, "never run", lambda raw: code(raw)[2].update(execution_count=None)),
    (check.executed_in_order, "run twice", lambda raw: code(raw)[-1].update(execution_count=99)),
    (check.no_errors, "error", an_error),
    (check.no_errors, "warning", lambda raw: code(raw)[3]["outputs"].append(
        {"output_type": "stream", "name": "stderr", "text": ["UserWarning"]})),
    (check.notebook_format, "4.4", lambda raw: raw.update(nbformat_minor=4)),
    (check.notebook_format, "invalid", lambda raw: code(raw)[3].pop("outputs")),
    (check.unique_ids, "twice", lambda raw: raw["cells"][2].update(id=raw["cells"][3]["id"])),
    (check.unique_ids, "none", lambda raw: raw["cells"][2].pop("id")),
    (check.kernelspec, "none", lambda raw: raw["metadata"].pop("kernelspec")),
    (check.kernelspec, "another", lambda raw: raw["metadata"]["kernelspec"].update(name="ir")),
    (check.no_widgets, "metadata", lambda raw: raw["metadata"].update(widgets={})),
    (check.no_widgets, "output", lambda raw: code(raw)[3]["outputs"].append(
        {"output_type": "display_data", "metadata": {}, "data": {"application/vnd.jupyter.widget-view+json": {}}})),
    (check.badge_equals_path, "another lesson", lambda raw: replaces(raw, "/notebooks/05_", "/notebooks/04_")),
    (check.small_file, "a megabyte", lambda raw: prints(raw, "x" * 1_000_000)),
    (check.no_relative_images, "markdown", lambda raw: says(raw, "![a cat](../data/results/shipped.jpg)")),
    (check.no_relative_images, "html", lambda raw: says(raw, '<img width="3" src="cat.jpg">')),
    (check.same_bootstrap, "changed", lambda raw: code(raw)[0].update(source=["ROOT = None"])),
    (check.local_links_exist, "html", lambda raw: says(raw, '<a href="11_nothing.ipynb">next</a>')),
    (check.local_links_exist, "with a title", lambda raw: says(raw, '[next](11_nothing.ipynb "Next")')),
    (check.no_relative_images, "HTML", lambda raw: says(raw, "<IMG src = cat.jpg>")),
    (check.knobs_in_one_cell, "an explanation too many", lambda raw: replaces(
        raw, "# @markdown Where lesson 4", "# @markdown Two\n# @markdown Where lesson 4")),
    (check.module_equals_lesson, "no name", lambda raw: replaces(raw, "#| default_exp visualization", "")),
    (check.local_links_exist, "dead", lambda raw: says(raw, "[next](11_nothing.ipynb)")),
    (check.knobs_in_one_cell, "two cells", lambda raw: code(raw)[4].update(source=["SEED = 1  # @param"])),
    (check.knobs_in_one_cell, "unexplained", lambda raw: replaces(raw, "# @markdown Where lesson 4", "# Where lesson 4")),
    (check.knobs_in_one_cell, "unknown", lambda raw: replaces(raw, "SEED = 0", "SEEDS = 0")),
    (check.knobs_in_one_cell, "computed", lambda raw: replaces(raw, "SEED = 0  #", "SEED = 0;  a = 1  #")),
    (check.knobs_are_checked, "never", lambda raw: replaces(raw, "\ncheck(globals())\n", "\n")),
    (check.timings_are_tagged, "untagged", lambda raw: code(raw)[4]["source"].append("\nstart = perf_counter()")),
    (check.timings_are_tagged, "magic", lambda raw: code(raw)[4]["source"].insert(0, "%%timeit\n")),
    (check.short_cells, "41 lines", lambda raw: code(raw)[4].update(source=["pass\n"] * 41)),
    (check.module_equals_lesson, "edited", lambda raw: replaces(raw, "figsize=(8, sum(heights))", "figsize=(7, 7)")),
    (check.no_printed_arrays, "tensor", lambda raw: prints(raw, f"tensor({an_array(11)})")),
    (check.no_printed_arrays, "rows", lambda raw: prints(raw, f"array([{an_array(6)},\n       {an_array(6)}])")),
    (check.no_printed_arrays, "cut short", lambda raw: prints(raw, "tensor([0.1, 0.2,  ..., 0.3])")),
    (check.no_printed_arrays, "scalars", lambda raw: prints(raw, f"[{', '.join(['np.float64(0.25)'] * 11)}]")),
    (check.no_printed_arrays, "booleans", lambda raw: prints(raw, f"tensor([{', '.join(['True'] * 11)}])")),
    (check.no_printed_arrays, "tuple", lambda raw: prints(raw, f"({an_array(11)[1:-1]})")),
    (check.no_printed_arrays, "numpy", lambda raw: prints(raw, an_array(11).replace(",", ""))),
    (check.no_places, "unix", lambda raw: prints(raw, "saved /home/me/cat.jpg")),
    (check.no_places, "address", lambda raw: prints(raw, "saved:file:///home/me/cat.jpg")),
    (check.no_places, "after a colon", lambda raw: prints(raw, "saved to:/home/me/cat.jpg")),
    (check.no_places, "slashes", lambda raw: prints(raw, "saved C:/Users/me/cat.jpg")),
    (check.no_places, "windows", lambda raw: prints(raw, "saved 'C:\\me\\cat.jpg'")),
    *((check.has_its_parts, part, lambda raw, part=part: replaces(raw, part, "")) for part in check.PARTS),
    (check.has_its_parts, "to do", lambda raw: says(raw, "TODO")),
    (check.has_its_parts, "no number", lambda raw: replaces(raw, "# 5 · ", "# ")),
    (check.has_its_parts, "no picture", lambda raw: [cell.update(outputs=[]) for cell in code(raw)]),
]  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what the rules look at."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("notebooks", "colorize_utils"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "data" / "results", folder / "data" / "results")
    shutil.copy(ROOT / "data" / "README.md", folder / "data")
    return folder


@pytest.mark.parametrize(
    "rule, name, spoil", BAD, ids=[f"{rule.__name__}-{name}" for rule, name, _ in BAD]
)
def test_a_bad_lesson_is_found(rule, name, spoil, copy):
    path = copy / "notebooks" / "05_visualization.ipynb"
    good = path.read_text(encoding="utf-8")
    assert list(rule(check.Lesson(path))) == []
    raw = json.loads(good)
    spoil(raw)
    try:
        path.write_text(json.dumps(raw, indent=1), encoding="utf-8")
        assert list(rule(check.Lesson(path)))
    finally:
        path.write_text(good, encoding="utf-8")


def test_every_rule_has_a_bad_lesson():
    assert {rule for rule, *_ in BAD} == set(check.RULES)


def test_a_module_edited_by_hand_is_found(copy):
    module = copy / "colorize_utils" / "visualization.py"
    good = module.read_text(encoding="utf-8")
    try:
        module.write_text(good.replace("batch_size: int = 64", "batch_size: int = 65"), encoding="utf-8")
        assert list(
            check.module_equals_lesson(check.Lesson(copy / "notebooks" / "05_visualization.ipynb"))
        )
    finally:
        module.write_text(good, encoding="utf-8")


def test_ten_numbers_in_a_row_may_be_printed(copy, tmp_path):
    raw = json.loads((copy / "notebooks" / "05_visualization.ipynb").read_text(encoding="utf-8"))
    prints(raw, f"tensor({an_array(10)})")
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "05_visualization.ipynb"
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert list(check.no_printed_arrays(check.Lesson(path))) == []


def test_links_to_a_part_of_a_lesson_are_fine(copy):
    path = copy / "notebooks" / "05_visualization.ipynb"
    good = path.read_text(encoding="utf-8")
    raw = json.loads(good)
    says(raw, "[a part](02_lab_color.ipynb#gamut), [here](#settings)")
    try:
        path.write_text(json.dumps(raw), encoding="utf-8")
        assert list(check.local_links_exist(check.Lesson(path))) == []
    finally:
        path.write_text(good, encoding="utf-8")


def test_a_figure_without_a_title_is_found(tmp_path):
    start = "%matplotlib inline\nimport matplotlib.pyplot as plt\n"
    cells = {
        "titled": "plt.imshow([[1, 2]])\nplt.colorbar()\nplt.title('one')\nplt.show()",
        "one title for all": "figure, axes = plt.subplots(1, 2)\naxes[0].plot([1])\nfigure.suptitle('both')\nplt.show()",
        "untitled": "plt.plot([1, 2])\nplt.show()",
        "one panel untitled": "figure, axes = plt.subplots(1, 2)\n[axis.plot([1]) for axis in axes]\naxes[0].set_title('one')\nplt.show()",
    }
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(start + text) for text in cells.values()]
    )
    nbformat.write(notebook, tmp_path / "figures.ipynb")
    done = tool.execute(tmp_path / "figures.ipynb", folder=tmp_path, watch=True)
    assert ["no title" in tool.text_of(cell) for cell in done.cells] == [False, False, True, True]
