"""Every lesson keeps every rule, and every rule can fail: each has bad lessons that break it."""

import json

import check
import lessons as tool
import nbformat
import pytest
from lessons import code


@pytest.mark.parametrize("path", tool.lessons(), ids=lambda path: path.stem)
def test_a_lesson_keeps_the_rules(path):
    assert check.complaints(path) == []


def has(raw, source, *tags):
    code(raw)[4].update(source=source, metadata={"tags": list(tags)})


def puts_out(raw, kind, **more):
    code(raw)[3].outputs.append({"output_type": kind, **more})


def prints(raw, text, name="stdout"):
    puts_out(raw, "stream", name=name, text=text)


def says(raw, text):
    next(cell for cell in raw.cells[3:] if cell.cell_type == "markdown").source += f"\n\n{text}"


def replaces(raw, old, new):
    assert any(old in cell.source for cell in raw.cells), old
    for cell in raw.cells:
        cell.source = cell.source.replace(old, new)


def with_each(rule, function, *texts):
    return [(rule, text[:30], lambda raw, text=text: function(raw, text)) for text in texts]


TEN = "[" + ", ".join(["0.1250"] * 10) + "]"
ELEVEN = TEN.replace("]", ", nan]")
WIDGET = {"application/vnd.jupyter.widget-view+json": {}}
BAD = [
    (check.executed_in_order, "never run", lambda raw: code(raw)[2].update(execution_count=None)),
    (check.no_errors, "error", lambda raw: puts_out(raw, "error", ename="E", evalue="no", traceback=[])),
    (check.no_errors, "warning", lambda raw: prints(raw, "UserWarning", "stderr")),
    (check.notebook_format, "4.4", lambda raw: raw.update(nbformat_minor=4)),
    (check.notebook_format, "invalid", lambda raw: code(raw)[3].pop("outputs")),
    (check.notebook_format, "another", lambda raw: raw["metadata"]["kernelspec"].update(name="ir")),
    (check.unique_ids, "twice", lambda raw: raw["cells"][2].update(id=raw["cells"][3]["id"])),
    (check.unique_ids, "none", lambda raw: raw["cells"][2].pop("id")),
    (check.no_widgets, "metadata", lambda raw: raw["metadata"].update(widgets={})),
    (check.no_widgets, "output", lambda raw: puts_out(raw, "display_data", metadata={}, data=WIDGET)),
    (check.badge_equals_path, "another", lambda raw: replaces(raw, "/notebooks/05_", "/notebooks/04_")),
    (check.small_file, "a megabyte", lambda raw: prints(raw, "x" * 1_000_000)),
    *with_each(check.no_relative_images, says, "![a cat](../data/results/shipped.jpg)",
               '<img width="3" src="cat.jpg">', "<IMG src = cat.jpg>"),
    (check.same_setup, "changed", lambda raw: replaces(raw, "# @title Setup", "# @title Set up")),
    (check.same_setup, "unfolded", lambda raw: code(raw)[0].update(metadata={})),
    *with_each(check.local_links_exist, says, "[next](11_nothing.ipynb)", '[next](11_nothing.ipynb "Next")',
               '<a href="11_nothing.ipynb">next</a>'),
    (check.knobs_in_one_cell, "two cells", lambda raw: has(raw, "SEED = 1  # @param")),
    (check.knobs_in_one_cell, "unexplained", lambda raw: replaces(raw, "# @markdown Side", "# Side")),
    *with_each(check.knobs_in_one_cell, lambda raw, new: replaces(raw, "SEED = 0  #", new),
               "# @markdown Two\nSEED = 0  #", "SEEDS = 0  #", "SEED = len('')  #"),
    (check.knobs_are_checked, "never", lambda raw: replaces(raw, "\ncheck(globals())\n", "\n")),
    *with_each(check.timings_are_tagged, has, "start = perf_counter()", "%%timeit\npass"),
    *with_each(check.results_are_measured, has, 'ROOT / "data" / "results"', "open('../data/results/race.json')"),
    *with_each(check.results_are_measured, says, "<!-- race -->", "<!-- /race -->"),
    (check.short_cells, "41 lines", lambda raw: has(raw, "pass\n" * 41)),
    (check.module_equals_lesson, "no name", lambda raw: replaces(raw, "#| default_exp visualization", "")),
    (check.module_equals_lesson, "edited", lambda raw: replaces(raw, "#| export", "#| export\nEDITED = True")),
    *with_each(check.no_printed_arrays, prints, f"tensor({ELEVEN})", f"array([{TEN},\n       {TEN}])",
               "tensor([0.1, 0.2,  ..., 0.3])", f"[{', '.join(['np.float64(0.25)'] * 11)}]",
               f"tensor([{', '.join(['True'] * 11)}])", f"({ELEVEN[1:-1]})", ELEVEN.replace(",", "")),
    *with_each(check.no_places, prints, "saved /home/me/cat.jpg", "saved:file:///home/me/cat.jpg",
               "saved to:/home/me/cat.jpg", "saved C:/Users/me/cat.jpg", "saved 'C:\\me\\cat.jpg'"),
    *with_each(check.has_its_parts, lambda raw, part: replaces(raw, part, ""), *check.PARTS, "# 5 · "),
    (check.has_its_parts, "to do", lambda raw: says(raw, "TODO")),
    (check.has_its_parts, "no picture", lambda raw: [cell.update(outputs=[]) for cell in code(raw)]),
]  # fmt: skip
FINE = [
    *with_each(check.no_printed_arrays, prints, f"tensor({TEN})"),
    *with_each(check.local_links_exist, says, "[a part](02_lab_color.ipynb#gamut), [here](#settings)"),
    (check.results_are_measured, "tagged", lambda raw: has(raw, 'ROOT / "data/results"', "measured")),
]  # fmt: skip


@pytest.mark.parametrize("rule", check.RULES, ids=lambda rule: rule.__name__)
def test_a_rule_finds_bad_lessons_and_only_those(rule, copy_course, tmp_path):
    good = tool.lessons()[4]
    path = copy_course(tmp_path) / "notebooks" / good.name
    bad, fine = ([case[1:] for case in some if case[0] is rule] for some in (BAD, FINE))
    assert bad
    for name, spoil in bad + fine:
        spoil(lesson := tool.read(good))
        path.write_text(json.dumps(lesson), encoding="utf-8")
        assert bool(list(rule(check.Lesson(path)))) == ((name, spoil) in bad), name


def test_a_figure_without_a_title_is_found(tmp_path):
    first = "%matplotlib inline\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots(1, 2)\n"
    cells = {
        "[axis.plot([1]) for axis in axes]\nfigure.suptitle('both')": False,
        "figure.colorbar(axes[0].imshow([[1, 2]]))\naxes[0].set_title('one')": False,
        "[axis.plot([1]) for axis in axes]\naxes[0].set_title('one')": True,
    }
    sources = [f"{first}{text}\nplt.show()" for text in cells]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    nbformat.write(notebook, tmp_path / "figures.ipynb")
    done = tool.execute(tmp_path / "figures.ipynb", folder=tmp_path, watch=True)
    assert ["no title" in tool.text_of(cell) for cell in done.cells] == list(cells.values())
