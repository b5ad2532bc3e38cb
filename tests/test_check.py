"""Every lesson keeps every rule, and every rule can fail: each has bad lessons that break it."""

import json

import check
import lessons as tool
import nbformat
import pytest


@pytest.mark.parametrize("path", tool.lessons(), ids=lambda path: path.stem)
def test_a_lesson_keeps_the_rules(path):
    assert check.complaints(path) == []


# ---- lessons for each rule: a function spoils a notebook's JSON ----


def code(raw):
    return [cell for cell in raw["cells"] if cell["cell_type"] == "code"]


def has(raw, source, *tags):
    code(raw)[4].update(source=[source], metadata={"tags": list(tags)})


def puts_out(raw, kind, **more):
    code(raw)[3]["outputs"].append({"output_type": kind, **more})


def prints(raw, text, name="stdout"):
    puts_out(raw, "stream", name=name, text=[text])


def says(raw, text):
    text_cell = next(cell for cell in raw["cells"][3:] if cell["cell_type"] == "markdown")
    text_cell["source"] = [*text_cell["source"], f"\n\n{text}"]


def replaces(raw, old, new):
    """In every source; the fixture is of no use where there is nothing to replace."""
    assert old in "".join("".join(cell["source"]) for cell in raw["cells"]), old
    for cell in raw["cells"]:
        cell["source"] = "".join(cell["source"]).replace(old, new).splitlines(keepends=True)


def with_each(rule, function, *texts):
    return [(rule, text[:30], lambda raw, text=text: function(raw, text)) for text in texts]


SIX, TEN = "[" + ", ".join(["0.1250"] * 6) + "]", "[" + ", ".join(["0.1250"] * 10) + "]"
ELEVEN = TEN.replace("]", ", nan]")
WIDGET = {"application/vnd.jupyter.widget-view+json": {}}
BAD = [
    (check.executed_in_order, "never run", lambda raw: code(raw)[2].update(execution_count=None)),
    (check.executed_in_order, "run twice", lambda raw: code(raw)[-1].update(execution_count=99)),
    (check.no_errors, "error", lambda raw: puts_out(raw, "error", ename="E", evalue="no", traceback=[])),
    (check.no_errors, "warning", lambda raw: prints(raw, "UserWarning", "stderr")),
    (check.notebook_format, "4.4", lambda raw: raw.update(nbformat_minor=4)),
    (check.notebook_format, "invalid", lambda raw: code(raw)[3].pop("outputs")),
    (check.notebook_format, "no kernel", lambda raw: raw["metadata"].pop("kernelspec")),
    (check.notebook_format, "another", lambda raw: raw["metadata"]["kernelspec"].update(name="ir")),
    (check.unique_ids, "twice", lambda raw: raw["cells"][2].update(id=raw["cells"][3]["id"])),
    (check.unique_ids, "none", lambda raw: raw["cells"][2].pop("id")),
    (check.no_widgets, "metadata", lambda raw: raw["metadata"].update(widgets={})),
    (check.no_widgets, "output", lambda raw: puts_out(raw, "display_data", metadata={}, data=WIDGET)),
    (check.badge_equals_path, "another", lambda raw: replaces(raw, "/notebooks/05_", "/notebooks/04_")),
    (check.small_file, "a megabyte", lambda raw: prints(raw, "x" * 1_000_000)),
    *with_each(check.no_relative_images, says, "![a cat](../data/results/shipped.jpg)",
               '<img width="3" src="cat.jpg">', "<IMG src = cat.jpg>"),
    (check.same_setup, "changed", lambda raw: code(raw)[0]["source"].append("ROOT = None")),
    (check.same_setup, "unfolded", lambda raw: code(raw)[0].update(metadata={})),
    *with_each(check.local_links_exist, says, "[next](11_nothing.ipynb)", '[next](11_nothing.ipynb "Next")',
               '<a href="11_nothing.ipynb">next</a>'),
    (check.knobs_in_one_cell, "two cells", lambda raw: has(raw, "SEED = 1  # @param")),
    (check.knobs_in_one_cell, "unexplained", lambda raw: replaces(raw, "# @markdown Side", "# Side")),
    (check.knobs_in_one_cell, "explained twice", lambda raw: replaces(
        raw, "# @markdown Side", "# @markdown Two\n# @markdown Side")),
    (check.knobs_in_one_cell, "unknown", lambda raw: replaces(raw, "SEED = 0", "SEEDS = 0")),
    (check.knobs_in_one_cell, "computed", lambda raw: replaces(raw, "SEED = 0  #", "SEED = 0;  a = 1  #")),
    (check.knobs_are_checked, "never", lambda raw: replaces(raw, "\ncheck(globals())\n", "\n")),
    *with_each(check.timings_are_tagged, has, "start = perf_counter()", "%%timeit\npass"),
    *with_each(check.results_are_measured, has, 'ROOT / "data" / "results"', "open('../data/results/race.json')"),
    *with_each(check.results_are_measured, says, "<!-- race -->", "<!-- /race -->"),
    (check.short_cells, "41 lines", lambda raw: has(raw, "pass\n" * 41)),
    (check.module_equals_lesson, "no name", lambda raw: replaces(raw, "#| default_exp visualization", "")),
    (check.module_equals_lesson, "edited", lambda raw: replaces(raw, "#| export", "#| export\nEDITED = True")),
    *with_each(check.no_printed_arrays, prints, f"tensor({ELEVEN})", f"array([{SIX},\n       {SIX}])",
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


CASES = [
    pytest.param(rule, spoil, bad, id=f"{rule.__name__}-{name}")
    for bad, cases in ((True, BAD), (False, FINE))
    for rule, name, spoil in cases
]


@pytest.fixture(scope="module")
def course(copy_course, tmp_path_factory):
    return copy_course(tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("rule, spoil, bad", CASES)
def test_a_rule_finds_bad_lessons_and_only_those(rule, spoil, bad, course):
    good = tool.lessons()[4]
    path = course / "notebooks" / good.name
    raw = json.loads(good.read_text(encoding="utf-8"))
    spoil(raw)
    path.write_text(json.dumps(raw, indent=1), encoding="utf-8")
    assert bool(list(rule(check.Lesson(path)))) == bad


def test_every_rule_has_a_bad_lesson():
    assert {rule for rule, *_ in BAD} == set(check.RULES)


def test_a_figure_without_a_title_is_found(tmp_path):
    first = "%matplotlib inline\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots(1, 2)\n"
    cells = {
        "axes[0].imshow([[1, 2]])\naxes[0].set_title('one')": False,
        "[axis.plot([1]) for axis in axes]\nfigure.suptitle('both')": False,
        "figure.colorbar(axes[0].imshow([[1, 2]]))\naxes[0].set_title('one')": False,
        "axes[0].plot([1])": True,
        "[axis.plot([1]) for axis in axes]\naxes[0].set_title('one')": True,
    }
    sources = [f"{first}{text}\nplt.show()" for text in cells]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    nbformat.write(notebook, tmp_path / "figures.ipynb")
    done = tool.execute(tmp_path / "figures.ipynb", folder=tmp_path, watch=True)
    assert ["no title" in tool.text_of(cell) for cell in done.cells] == list(cells.values())
