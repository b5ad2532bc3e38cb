"""Every lesson keeps every rule, and every rule can fail: each has bad lessons that break it."""

import json

import check
import lessons as tool
import nbformat
import pytest
from lessons import code


@pytest.mark.parametrize(
    "path", tool.lessons() + tool.solutions(), ids=lambda path: f"{path.parent.name} {path.stem}"
)
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
    (check.badge_equals_path, "another", lambda raw: replaces(raw, "/notebooks/07_", "/notebooks/04_")),
    (check.small_file, "a megabyte", lambda raw: prints(raw, "x" * 1_000_000)),
    *with_each(check.no_relative_images, says, "![a cat](../data/results/shipped.jpg)",
               '<img width="3" src="cat.jpg">', "<IMG src = cat.jpg>"),
    (check.same_setup, "changed", lambda raw: replaces(raw, "# @title Setup", "# @title Set up")),
    (check.same_setup, "long", lambda raw: code(raw)[0].update(source=code(raw)[0].source + "\n#")),
    (check.same_setup, "unfolded", lambda raw: code(raw)[0].update(metadata={})),
    *with_each(check.local_links_exist, says, "[next](11_nothing.ipynb)", '[next](11_nothing.ipynb "Next")',
               '<a href="11_nothing.ipynb">next</a>'),
    (check.knobs_in_one_cell, "two cells", lambda raw: has(raw, "SEED = 1  # @param")),
    (check.knobs_in_one_cell, "unexplained", lambda raw: replaces(raw, "# @markdown Width", "# Width")),
    *with_each(check.knobs_in_one_cell, lambda raw, new: replaces(raw, "SEED = 0  #", new),
               "# @markdown Two\nSEED = 0  #", "SEEDS = 0  #", "SEED = len('')  #"),
    *with_each(check.timings_are_tagged, has, "start = perf_counter()", "%%timeit\npass"),
    *with_each(check.results_are_measured, has, 'ROOT / "data" / "results"', "open('../data/results/race.json')"),
    *with_each(check.results_are_measured, says, "<!-- race -->", "<!-- /race -->"),
    (check.short_to_read, "words", lambda raw: says(raw, "word " * 5000)),
    (check.short_to_read, "code", lambda raw: says(raw, "```\n" + "pass\n" * 300 + "```")),
    (check.short_cells, "31 lines", lambda raw: has(raw, "pass\n" * 31)),
    (check.short_cells, "a wide line", lambda raw: has(raw, "#" * 101)),
    (check.short_cells, "31 cells", lambda raw: raw.cells.extend(raw.cells[:1] * (31 - len(raw.cells)))),
    (check.short_cells, "no short ones", lambda raw: [c.update(source="pass\n" * 9) for c in code(raw)]),
    (check.short_cells, "many of eleven", lambda raw: [c.update(source="pass\n" * 11) for c in code(raw)[:5]]),
    (check.text_before_code, "code after code", lambda raw: raw.cells.insert(2, code(raw)[3])),
    (check.few_tricky_boxes, "four", lambda raw: says(raw, "### Tricky: one more\n" * 4)),
    *with_each(check.answers_unfold, lambda raw, part: replaces(raw, part, ""), "<details>", "\n1. ", "```python",
               "](solutions/07_"),
    (check.one_page, "91 lines", lambda raw: has(raw, "pass\n" * 91)),
    (check.one_page, "our package", lambda raw: has(raw, "import colorize_utils.lab")),
    *with_each(check.plain_code, lambda raw, new: has(raw, f"#| export\n{new}"), "raise ValueError",
               "try:\n    pass\nexcept OSError:\n    pass", "isinstance(1, int)", "(a := 1)",
               'def f():\n    """One.\n\n    Two.\n    """\n    return 1',
               "def f(x):\n    assert x\n    assert x > 1\n    return x"),
    (check.module_equals_lesson, "no name", lambda raw: replaces(raw, "#| default_exp losses", "")),
    (check.module_equals_lesson, "edited", lambda raw: replaces(raw, "#| export", "#| export\nEDITED = True")),
    *with_each(check.no_printed_arrays, prints, f"tensor({ELEVEN})", f"array([{TEN},\n       {TEN}])",
               "tensor([0.1, 0.2,  ..., 0.3])", f"[{', '.join(['np.float64(0.25)'] * 11)}]",
               f"tensor([{', '.join(['True'] * 11)}])", f"({ELEVEN[1:-1]})", ELEVEN.replace(",", "")),
    *with_each(check.no_places, prints, "saved /home/me/cat.jpg", "saved:file:///home/me/cat.jpg",
               "saved to:/home/me/cat.jpg", "saved C:/Users/me/cat.jpg", "saved 'C:\\me\\cat.jpg'"),
    *with_each(check.has_its_parts, lambda raw, part: replaces(raw, part, ""), *check.PARTS, "# 7 · "),
    (check.has_its_parts, "to do", lambda raw: says(raw, "TODO")),
    (check.has_its_parts, "no picture", lambda raw: [cell.update(outputs=[]) for cell in code(raw)]),
]  # fmt: skip
FINE = [
    *with_each(check.no_printed_arrays, prints, f"tensor({TEN})"),
    *with_each(check.local_links_exist, says, "[a part](02_lab_color.ipynb#gamut), [here](#settings)"),
    (check.results_are_measured, "tagged", lambda raw: has(raw, 'ROOT / "data/results"', "measured")),
]  # fmt: skip


@pytest.mark.parametrize("rule", check.RULES + check.OF_A_LESSON, ids=lambda rule: rule.__name__)
def test_a_rule_finds_bad_lessons_and_only_those(rule, copy_course, tmp_path):
    (good,) = tool.chosen("00" if rule is check.one_page else "07")
    path = copy_course(tmp_path) / "notebooks" / good.name
    bad, fine = ([case[1:] for case in some if case[0] is rule] for some in (BAD, FINE))
    assert bad
    for name, spoil in bad + fine:
        spoil(lesson := tool.read(good))
        path.write_text(json.dumps(lesson), encoding="utf-8")
        assert bool(list(rule(check.Lesson(path)))) == ((name, spoil) in bad), name


def test_five_lessons_together_take_no_longer_than_ninety_minutes(copy_course, tmp_path):
    (good,) = tool.chosen("02")
    path = copy_course(tmp_path) / "notebooks" / good.name
    lesson = tool.read(path)
    more = 20 - check.Lesson(path).minutes
    says(lesson, "word " * int(220 * more))
    path.write_text(json.dumps(lesson), encoding="utf-8")
    found = list(check.short_to_read(check.Lesson(path)))
    assert len(found) == 1 and "01 to 05" in found[0]


def test_a_figure_without_a_title_or_of_the_wrong_size_is_found(tmp_path):
    first = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.rcParams['figure.dpi'] = 144\n"
    first += "figure, axes = plt.subplots(1, 2)\nphoto = [[[0.5, 0.5, 0.5]]]\n"
    wrong, small, coarse = "no title", "pixels wide", "dots an inch"
    cells = {
        "[axis.plot([1]) for axis in axes]\nfigure.suptitle('both')": "",
        "figure.colorbar(axes[0].imshow([[1, 2]]))\naxes[0].set_title('one')": "",
        "[axis.imshow(photo) for axis in axes]\naxes[0].set_ylabel('the row')": "",
        "[axis.plot([1]) for axis in axes]\naxes[0].set_title('one')": wrong,
        "[axis.imshow(photo) for axis in axes]": wrong,
        "figure.set_size_inches(2, 2)\naxes[0].imshow(photo)\naxes[0].set_title('one')": small,
        "figure.set_dpi(100)\naxes[0].plot([1])\naxes[0].set_title('one')": coarse,
    }
    sources = [f"{first}{text}\nplt.show()" for text in cells]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    nbformat.write(notebook, tmp_path / "figures.ipynb")
    done = tool.execute(tmp_path / "figures.ipynb", folder=tmp_path, watch=True)
    for cell, said in zip(done.cells, cells.values()):
        found = tool.text_of(cell)
        assert [x in found for x in (wrong, small, coarse)] == [
            x == said for x in (wrong, small, coarse)
        ]
