"""The rules for a lesson's file. `python tools/check.py` checks every lesson; tests/test_check.py breaks every rule.

A rule takes a Lesson and yields what is wrong with it. Figures without a title show only while a lesson runs:
see watch_figures.py.
"""

import ast
import json
import re
import statistics
import sys
import tempfile
from functools import cached_property
from pathlib import Path

import nbformat
from generate import lessons, solutions
from lessons import code, knobs

KNOBS = set("DATA IMAGE_SIZE BASE_WIDTH BATCH_SIZE EPOCHS LEARNING_RATE SEED".split())
NUMBER = r"(?:[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)|True|False)"
MANY = rf"[\[(][\[(\s]*{NUMBER}(?:[\s,\[\]]+{NUMBER}){{10,}}"  # eleven numbers in brackets
CUT = rf"[\[(][\[(\s]*{NUMBER}[^()]*?[\s,\[]\.\.\."  # so many that the print left some out
ARRAY = re.compile(rf"{MANY}|{CUT}", re.I)
WRAPPER = re.compile(r"(?:np\.\w+|tensor)\(([^()\[\]]*)\)")  # np.float64(0.5), tensor(0.5)
CLOCK = re.compile(r"perf_counter|monotonic\(|time\.time|timeit|%time|datetime\.now|elapsed_time")
PLACE = re.compile(r"file:/\S*|(?<![\w/.<])(?:/\w[\w.-]*/|[A-Z]:[\\/]\w)\S*")
IMAGE = re.compile(r"""!\[[^\]]*\]\(([^)\s]+)|<img[^>]*src\s*=\s*["']?([^"'\s>]+)""", re.I)
LINK = re.compile(r"""\]\(([^)\s]+)|<a[^>]*href\s*=\s*["']?([^"'\s>]+)""", re.I)
EXPLAINED = re.compile(r"(# @markdown .+\n[A-Z_]+ = .+?  # @param .*\n?)+")
RESULTS = re.compile(r"""data/results|["']results["']""")
PARTS = (
    "What you will learn", "Before you start", "Predict before you run", "### Tricky: ", "## Main takeaways", "## Check yourself",
    "## Exercises", "## Take it with you", "## Sources", "**Next:**", "*Last run: 20", "<!-- makes: ",
)  # fmt: skip
ONE_PAGE = (
    "What you will learn",
    "Before you start",
    "## Sources",
    "**Next:**",
    "*Last run: 20",
    "<!-- makes: ",
)
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
MINUTES = {"03": 25, "07": 25}  # to read a lesson; 20 for the others, and 90 for 01 to 05 together


class Lesson:
    """A notebook as it stands on the disk: `raw` JSON, and what nbformat makes of it."""

    def __init__(self, path: Path):
        self.path, self.is_solution = path, path.parent.name == "solutions"
        self.repository = path.parents[2 if self.is_solution else 1]
        self.raw = json.loads(path.read_text(encoding="utf-8"))

    @cached_property
    def notebook(self):
        cells = [{**cell, "source": "".join(cell["source"])} for cell in self.raw["cells"]]
        return nbformat.from_dict({**self.raw, "cells": cells})

    @property
    def code(self) -> list:
        return code(self.notebook)

    @property
    def text(self) -> str:
        return "\n".join(cell.source for cell in self.notebook.cells if cell.cell_type == "markdown")

    @cached_property
    def minutes(self) -> float:
        """To read it: 220 words a minute, four seconds a line of code."""
        words = re.sub(r"<.*?>|\]\(\S*?\)", " ", FENCED.sub("", self.text)).split()
        lines = "\n".join([cell.source for cell in self.code] + FENCED.findall(self.text)).splitlines()
        return len(words) / 220 + len([line for line in lines if line.strip()]) * 4 / 60

    @property
    def outputs(self) -> list:
        return [output for cell in self.code for output in cell.get("outputs", [])]

    @property
    def printed(self) -> str:
        """Everything that the outputs say in words."""
        said = [{"text": o.get("text", ""), **o.get("data", {})} for o in self.outputs]
        return "\n".join("".join(text) for some in said for kind, text in some.items() if "text" in kind)


def executed_in_order(lesson):
    counts = [cell.execution_count for cell in lesson.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}"


def no_errors(lesson):
    for output in lesson.outputs:
        if output["output_type"] == "error" or output.get("name") == "stderr":
            yield f"an error or a warning: {output.get('evalue') or output.get('text')}"


def notebook_format(lesson):
    if (lesson.raw["nbformat"], lesson.raw["nbformat_minor"]) != (4, 5):
        yield f"nbformat is {lesson.raw['nbformat']}.{lesson.raw['nbformat_minor']}, not 4.5"
    if lesson.raw["metadata"].get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec is not python3"
    try:
        nbformat.validate(lesson.raw)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"


def unique_ids(lesson):
    ids = [cell.get("id") for cell in lesson.raw["cells"]]
    if None in ids or len(set(ids)) != len(ids):
        yield "a cell has no id, or two have the same"


def no_widgets(lesson):
    if "widgets" in lesson.raw["metadata"] or "widget-view" in json.dumps(lesson.raw["cells"]):
        yield "widgets: GitHub shows such a notebook as invalid"


def badge_equals_path(lesson):
    badge = lesson.notebook.cells[0].source.splitlines()[0]
    if not badge.endswith(f"/blob/main/{lesson.path.relative_to(lesson.repository).as_posix()})"):
        yield f"the badge does not open {lesson.path.name}: {badge}"


def small_file(lesson):
    if lesson.path.stat().st_size >= 1_000_000:
        yield f"{lesson.path.stat().st_size:,} bytes, over a megabyte"


def no_relative_images(lesson):
    for target in IMAGE.findall(lesson.text):
        if "://" not in "".join(target):
            yield f"a picture that only a clone has: {''.join(target)}"


def same_setup(lesson):
    if lesson.path.name.startswith("00"):
        return  # it needs nothing of ours
    setup, first = lesson.code[0], next((lesson.repository / "notebooks").glob("01_*.ipynb"))
    wanted = Lesson(first).code[0].source
    if lesson.is_solution:  # a folder deeper
        wanted = wanted.replace('".."', '"../.."').replace('"../colorize', '"../../colorize')
    if setup.source != wanted or not wanted.startswith("# @title Setup"):
        yield "the setup cell is not that of lesson 01, with its title"
    if len([line for line in setup.source.splitlines() if line]) > 6:
        yield "the setup cell has more than 6 lines"
    if setup.metadata != {"cellView": "form"}:
        yield f"the setup cell is not tagged as a form, which Colab collapses: {setup.metadata}"


def local_links_exist(lesson):
    for target in map("".join, LINK.findall(lesson.text)):
        if "://" not in target and not (lesson.path.parent / target.partition("#")[0]).exists():
            yield f"a link leads nowhere: {target}"


def knobs_in_one_cell(lesson):
    cells = [cell for cell in lesson.code if "@param" in cell.source]
    if len(cells) > 1:
        yield f"{len(cells)} cells have knobs"
    elif cells and not EXPLAINED.fullmatch(cells[0].source):
        yield "the settings cell has a line that is neither an explanation nor the knob that it explains"
    for name, value in knobs(lesson.notebook).items():
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            yield f"{name} is not a plain literal: {value}"
    if unknown := knobs(lesson.notebook).keys() - KNOBS:
        yield f"unknown knobs: {', '.join(sorted(unknown))}"


def timings_are_tagged(lesson):
    for cell in lesson.code:
        if CLOCK.search(cell.source) and "timing" not in cell.metadata.get("tags", []):
            yield f"a cell reads a clock without the tag timing: {cell.source[:60]!r}"


def results_are_measured(lesson):
    for cell in lesson.code:
        if RESULTS.search(cell.source) and "measured" not in cell.metadata.get("tags", []):
            yield f"a cell reads data/results without the tag measured: {cell.source[:60]!r}"
    for found in re.findall(r"<!-- (?!makes: ).*?-->", lesson.text):
        yield f"a generated block, where a cell should read data/results: {found}"


def short_to_read(lesson):
    number = lesson.path.name[:2]
    if lesson.minutes > MINUTES.get(number, 20):
        yield f"{lesson.minutes:.1f} minutes to read, over {MINUTES.get(number, 20)}"
    course = sorted(lesson.path.parent.glob("0[1-5]_*.ipynb"))
    if lesson.path in course and (total := sum(Lesson(path).minutes for path in course)) > 90:
        yield f"lessons 01 to 05 take {total:.0f} minutes to read, over 90"


def short_cells(lesson):
    lengths = [len(cell.source.splitlines()) for cell in lesson.code]
    if len(lesson.notebook.cells) > 30:
        yield f"{len(lesson.notebook.cells)} cells, over 30"
    if statistics.median(lengths) > 8 or sum(length <= 10 for length in lengths) < 0.75 * len(lengths):
        yield f"not half of the code cells have 8 lines or less, or not three of four 10: {lengths}"
    for cell in lesson.code:
        if len(cell.source.splitlines()) > 30:
            yield f"a cell of {len(cell.source.splitlines())} lines: {cell.source[:60]!r}"
        if long := [line for line in cell.source.splitlines() if len(line) > 100]:
            yield f"a line of {len(long[0])} characters: {long[0][:60]!r}"


def text_before_code(lesson):
    for before, cell in zip(lesson.notebook.cells, lesson.notebook.cells[1:]):
        if before.cell_type == cell.cell_type == "code":
            yield f"code right after code: {cell.source[:60]!r}"


def few_tricky_boxes(lesson):
    if lesson.text.count("### Tricky: ") > 3:
        yield "more than three Tricky boxes"


def answers_unfold(lesson):
    """Each question has an answer that unfolds; two exercises have starter code, and a notebook of solutions."""
    if lesson.path.name.startswith("00"):
        return
    parts = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", lesson.text, re.M | re.S))
    asked, exercises = parts.get("Check yourself", ""), parts.get("Exercises", "")
    if not (count := len(re.findall(r"^\d\. ", asked, re.M))) or count != asked.count("<details>"):
        yield f"{count} questions, {asked.count('<details>')} answers behind <details>"
    if exercises.count("```python") != 2:
        yield f"{exercises.count('```python')} exercises with starter code, not 2"
    if f"](solutions/{lesson.path.name})" not in exercises:
        yield "no link to its solutions"


def one_page(lesson):
    if lesson.path.name.startswith("00"):
        lines = [x for cell in lesson.code for x in cell.source.splitlines() if x.strip()]
        if len(lines) > 90 or "colorize_utils" in "\n".join(lines):
            yield f"{len(lines)} lines of code, over 90, or our package is in them"


def plain_code(lesson):
    """What a student would paste into coursework unchanged."""
    exported = "\n\n".join(cell.source for cell in lesson.code if "#| export" in cell.source)
    for node in ast.walk(ast.parse(exported)):
        if (
            isinstance(node, (ast.Raise, ast.Try, ast.NamedExpr))
            or getattr(node, "id", "") == "isinstance"
        ):
            yield f"exported code is not plain: {ast.unparse(node)[:60]!r}"
        if isinstance(node, ast.FunctionDef):
            said = len((ast.get_docstring(node) or "").splitlines())
            if said > node.end_lineno - node.lineno - said:
                yield f"the docstring of {node.name} is longer than its code"
            if sum(isinstance(part, ast.Assert) for part in ast.walk(node)) > 1:
                yield f"{node.name} has more than one assert"


def module_equals_lesson(lesson):
    from nbdev.export import nb_export

    module = re.search(r"^#\| default_exp (\w+)", "\n".join(c.source for c in lesson.code), re.M)
    if not module:
        if any("#| export" in cell.source for cell in lesson.code):
            yield "it exports code, but no cell says #| default_exp"
        return
    there = lesson.repository / "colorize_utils" / f"{module[1]}.py"
    with tempfile.TemporaryDirectory() as folder:
        nb_export(str(lesson.path), f"{folder}/colorize_utils")  # the name makes its imports relative
        exported = (Path(folder) / "colorize_utils" / there.name).read_text(encoding="utf-8")
    exported = re.sub(r"(?:\.\./)+\S*?notebooks/", "../notebooks/", exported)  # as seen from the package
    if not there.is_file() or exported != there.read_text(encoding="utf-8"):
        yield f"colorize_utils/{there.name} is not what the lesson exports: run make lessons"


def no_printed_arrays(lesson):
    for found in ARRAY.finditer(WRAPPER.sub(r"\1", lesson.printed)):
        yield f"more than ten bare numbers: {found[0][:60]!r}; draw them, or print what matters"


def no_places(lesson):
    for found in PLACE.finditer(lesson.printed):
        yield f"a place on the machine that ran it: {found[0]!r}"


def has_its_parts(lesson):
    for part in ONE_PAGE if lesson.path.name.startswith("00") else PARTS:
        if part not in lesson.text:
            yield f"there is no {part!r}"
    if "TODO" in lesson.text:
        yield "there is something to do"
    if not re.search(r"^# \d+ · ", lesson.notebook.cells[0].source, re.M):
        yield "the title is not numbered"
    if not any("image/jpeg" in output.get("data", {}) for output in lesson.outputs):
        yield "there is no picture"


RULES = [
    executed_in_order, no_errors, notebook_format, unique_ids, no_widgets, badge_equals_path, small_file, no_relative_images,
    same_setup, local_links_exist, timings_are_tagged, results_are_measured, text_before_code, no_printed_arrays, no_places,
]  # fmt: skip
# ... and these for lessons, but not for their solutions
OF_A_LESSON = [
    knobs_in_one_cell, short_to_read, short_cells, few_tricky_boxes, answers_unfold, one_page, plain_code, module_equals_lesson,
    has_its_parts,
]  # fmt: skip


def complaints(path: Path) -> list[str]:
    """What is wrong with a lesson, or with its solutions, by every rule."""
    lesson = Lesson(path)
    rules = RULES if lesson.is_solution else RULES + OF_A_LESSON
    return [f"{path.name}, {rule.__name__}: {what}" for rule in rules for what in rule(lesson)]


if __name__ == "__main__":
    found = [complaint for path in lessons() + solutions() for complaint in complaints(path)]
    print(*found, sep="\n")
    sys.exit(bool(found))
