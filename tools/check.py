"""The rules for a lesson's file. `python tools/check.py` checks every lesson; tests/test_check.py breaks every rule.

A rule takes a Lesson and yields what is wrong with it. Figures without a title show only while a lesson runs:
see watch_figures.py.
"""

import ast
import json
import re
import sys
import tempfile
from functools import cached_property
from pathlib import Path

import nbformat
from generate import lessons
from lessons import code, knobs

KNOBS = set("DATA IMAGE_SIZE BASE_WIDTH BATCH_SIZE EPOCHS LEARNING_RATE SEED CHECKPOINT_DIR".split())
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
    "What you will learn", "Before you start", "Settings", "Predict before you run", "### Tricky: ", "Main takeaways",
    "Check yourself", "Exercises", "Take it with you", "*Last run: 20", "<!-- makes: ",
)  # fmt: skip


class Lesson:
    """A notebook as it stands on the disk: `raw` JSON, and what nbformat makes of it."""

    def __init__(self, path: Path):
        self.path, self.repository = path, path.parents[1]
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
    if not badge.endswith(f"/blob/main/notebooks/{lesson.path.name})"):
        yield f"the badge does not open {lesson.path.name}: {badge}"


def small_file(lesson):
    if lesson.path.stat().st_size >= 1_000_000:
        yield f"{lesson.path.stat().st_size:,} bytes, over a megabyte"


def no_relative_images(lesson):
    for target in IMAGE.findall(lesson.text):
        if "://" not in "".join(target):
            yield f"a picture that only a clone has: {''.join(target)}"


def same_setup(lesson):
    setup, first = lesson.code[0], Lesson(min(lesson.path.parent.glob("01_*.ipynb"))).code[0]
    if setup.source != first.source or not setup.source.startswith("# @title Setup"):
        yield "the setup cell is not that of lesson 01, with its title"
    if setup.metadata != {"cellView": "form"}:
        yield f"the setup cell is not tagged as a form, which Colab collapses: {setup.metadata}"


def local_links_exist(lesson):
    for target in map("".join, LINK.findall(lesson.text)):
        if "://" not in target and not (lesson.path.parent / target.partition("#")[0]).exists():
            yield f"a link leads nowhere: {target}"


def knobs_in_one_cell(lesson):
    cells = [cell for cell in lesson.code if "@param" in cell.source]
    if len(cells) != 1:
        yield f"{len(cells)} cells have knobs"
    elif not EXPLAINED.fullmatch(cells[0].source):
        yield "the settings cell has a line that is neither an explanation nor the knob that it explains"
    for name, value in knobs(lesson.notebook).items():
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            yield f"{name} is not a plain literal: {value}"
    if unknown := knobs(lesson.notebook).keys() - KNOBS:
        yield f"unknown knobs: {', '.join(sorted(unknown))}"


def knobs_are_checked(lesson):
    after = [c.source for before, c in zip(lesson.code, lesson.code[1:]) if "@param" in before.source]
    if not any("\ncheck(globals())\n" in source for source in after):
        yield "the cell after the settings does not check(globals())"


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


def short_cells(lesson):
    for cell in lesson.code:
        if len(cell.source.splitlines()) > 40:
            yield f"a cell of {len(cell.source.splitlines())} lines: {cell.source[:60]!r}"


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
    for part in PARTS:
        if part not in lesson.text:
            yield f"there is no {part!r}"
    if "TODO" in lesson.text:
        yield "there is something to do"
    if not re.search(r"^# \d+ · ", lesson.notebook.cells[0].source, re.M):
        yield "the title is not numbered"
    if not any("image/jpeg" in output.get("data", {}) for output in lesson.outputs):
        yield "there is no picture"


RULES = [
    executed_in_order, no_errors, notebook_format, unique_ids, no_widgets, badge_equals_path, small_file,
    no_relative_images, same_setup, local_links_exist, knobs_in_one_cell, knobs_are_checked, timings_are_tagged, results_are_measured,
    short_cells, module_equals_lesson, no_printed_arrays, no_places, has_its_parts,
]  # fmt: skip


def complaints(path: Path) -> list[str]:
    """What is wrong with a lesson, by every rule."""
    return [f"{path.name}, {rule.__name__}: {what}" for rule in RULES for what in rule(Lesson(path))]


if __name__ == "__main__":
    found = [complaint for path in lessons() for complaint in complaints(path)]
    print(*found, sep="\n")
    sys.exit(bool(found))
