"""Wrong knobs: one sentence each, and the right values in it."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from colorize_utils.files.settings import CHOICES, check

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import check as rules  # noqa: E402
import lessons as tool  # noqa: E402

WRONG = [("DATA", 5), ("DATA", ""), ("DATA", None), ("IMAGE_SIZE", 0), ("IMAGE_SIZE", "big"), ("IMAGE_SIZE", 32.5),
         ("BASE_WIDTH", -1), ("BASE_WIDTH", "16"), ("BATCH_SIZE", 2.5), ("BATCH_SIZE", -8), ("EPOCHS", -2),
         ("EPOCHS", True), ("EPOCHS", [3]), ("LEARNING_RATE", 0), ("LEARNING_RATE", "fast"),
         ("LEARNING_RATE", float("nan")), ("LEARNING_RATE", float("inf")), ("SEED", "x"), ("SEED", -1),
         ("SEED", 2**70), ("CHECKPOINT_DIR", ""), ("CHECKPOINT_DIR", 3), ("CHECKPOINT_DIR", "~/runs")]  # fmt: skip


@pytest.mark.parametrize("name, value", WRONG, ids=str)
def test_a_wrong_value_is_named_with_those_that_exist(name, value, tmp_path):
    with pytest.raises(ValueError) as error:
        check({"ROOT": tmp_path, name: value})
    assert str(error.value) == f"{name} = {value!r} does not exist: {CHOICES[name]}"


def test_every_knob_has_its_choices_and_the_lessons_values_pass(tmp_path):
    assert set(CHOICES) == rules.KNOBS
    for path in tool.lessons():
        values = {name: eval(text) for name, text in tool.knobs(tool.read(path)).items()}
        check({**values, "ROOT": tmp_path})


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"nothing can be written to .*file.*choose another folder"):
        check({"ROOT": tmp_path, "CHECKPOINT_DIR": "file"})
    check({"ROOT": tmp_path, "CHECKPOINT_DIR": "new/folder"})
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_a_read_only_folder_is_named(tmp_path, as_nobody):
    (tmp_path / "course").mkdir(mode=0o755)
    program = (
        "from pathlib import Path; from colorize_utils.files.settings import check\n"
        "check({'ROOT': Path(sys.argv[1]), 'CHECKPOINT_DIR': 'data/runs'})"
    )
    done = as_nobody(program, tmp_path / "course")
    assert "nothing can be written to" in done.stderr and "Permission denied" in done.stderr, done.stderr


def test_a_drive_that_is_not_mounted_is_said_and_not_imitated(tmp_path):
    with pytest.raises(ValueError, match="Google Drive, which is not mounted"):
        check({"ROOT": tmp_path, "CHECKPOINT_DIR": "/content/drive/MyDrive/runs"})
    assert not Path("/content/drive").exists()


def test_a_lesson_stops_at_a_wrong_knob_before_it_computes(tmp_path):
    target = tmp_path / "04.ipynb"
    with pytest.raises(CellExecutionError, match="EPOCHS = -2 does not exist: choose a whole number"):
        tool.execute(tool.lessons()[3], target, values={"EPOCHS": -2})
    done = nbformat.read(target, as_version=4)
    failed = [c for c in done.cells if any(o.output_type == "error" for o in c.get("outputs", []))]
    assert len(failed) == 1 and "check(globals())" in failed[0].source
