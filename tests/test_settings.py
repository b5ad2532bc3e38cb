"""Wrong knobs: one sentence each, and the right values in it. And where a run lies."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from colorize_utils.files.settings import CHOICES, check, run_folder

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import check as rules  # noqa: E402
import lessons as tool  # noqa: E402

WRONG = [("DATA", 5), ("DATA", ""), ("DATA", None), ("IMAGE_SIZE", 15), ("IMAGE_SIZE", "big"), ("IMAGE_SIZE", 32.5),
         ("BASE_WIDTH", -1), ("BASE_WIDTH", "16"), ("BATCH_SIZE", 2.5), ("BATCH_SIZE", -8), ("EPOCHS", -2),
         ("EPOCHS", True), ("EPOCHS", [3]), ("LEARNING_RATE", 0), ("LEARNING_RATE", "fast"),
         ("LEARNING_RATE", float("nan")), ("LEARNING_RATE", float("inf")), ("SEED", "x"), ("SEED", -1),
         ("SEED", 2**70), ("CHECKPOINT_DIR", ""), ("CHECKPOINT_DIR", 3)]  # fmt: skip


@pytest.mark.parametrize("name, value", WRONG, ids=str)
def test_a_wrong_value_is_named_with_those_that_exist(name, value, tmp_path):
    with pytest.raises(ValueError) as error:
        check({"ROOT": tmp_path, name: value})
    assert str(error.value) == f"{name} = {value!r} does not exist: {CHOICES[name]}"


def test_every_knob_has_its_choices_and_the_lessons_values_pass(tmp_path):
    assert set(CHOICES) == rules.KNOBS
    for path in tool.lessons():
        values = {name: eval(text) for name, text in tool.knobs(tool.read(path)).items()}
        check({**values, "ROOT": tmp_path, "IMAGE_SIZE": 16, "DATA": "~/cats"})
    assert os.listdir(tmp_path) == []  # nothing is made before it is needed


def test_a_folder_that_is_none_or_may_not_be_written_to_is_named(tmp_path, as_nobody):
    (tmp_path / "file").write_text("")
    for name, value, why in (("CHECKPOINT_DIR", "file/runs", "nothing can be written to .*Not a directory"),
                             ("CHECKPOINT_DIR", "~/runs", "~ stands for nothing"), ("DATA", "$HOME/x", "HOME stands"),
                             ("CHECKPOINT_DIR", "/content/gdrive/MyDrive/x", "in no Google Drive that is mounted"),
                             ("DATA", "/content/drive/My Drive/x", "in no Google Drive that is mounted")):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: .*{why}"):
            check({"ROOT": tmp_path, name: value})
    (tmp_path / "course").mkdir(mode=0o755)
    program = "from pathlib import Path; from colorize_utils.files.settings import check; "
    program += "check({'ROOT': Path(sys.argv[1]), 'CHECKPOINT_DIR': 'data/runs'})"
    said = as_nobody(program, tmp_path / "course").stderr
    assert "data/runs (Permission denied: change its permissions, or choose a folder" in said
    assert sorted(os.listdir(tmp_path)) == ["course", "file"] and os.listdir(tmp_path / "course") == []


def test_other_pictures_another_size_or_width_have_another_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder(tmp_path, "sample", 32, 16) == tmp_path / "sample_32px_w16"
    names = [run_folder(tmp_path, *case).name for case in (("cats/train", 32, 16), ("dogs/train", 32, 16),
             ("cats/train", 64, 16), ("cats/train", 32, 64), ("cats/train.zip", 32, 16))]  # fmt: skip
    assert len(set(names)) == 5 and all(name.startswith("train") for name in names)
    for same in "./cats/train/", f"{tmp_path}/dogs/../cats/train":
        assert run_folder(tmp_path, same, 32, 16).name == names[0]


def test_a_lesson_stops_at_a_wrong_knob_before_it_computes(tmp_path):
    with pytest.raises(CellExecutionError, match="EPOCHS = -2 does not exist: choose a whole number"):
        tool.execute(tool.lessons()[3], tmp_path / "04.ipynb", values={"EPOCHS": -2})
    done = nbformat.read(tmp_path / "04.ipynb", as_version=4)
    failed = [c for c in done.cells if any(o.output_type == "error" for o in c.get("outputs", []))]
    assert len(failed) == 1 and "check(globals())" in failed[0].source
