"""Wrong knobs: one sentence each, and the right values in it. And where a run lies."""

import os

import check as rules
import lessons as tool
import pytest

from colorize_utils.files.settings import CHOICES, check, run_folder

WRONG = {
    "DATA": [5, "", None],
    "IMAGE_SIZE": [15, "big", 32.5],
    "BASE_WIDTH": [-1, "16"],
    "BATCH_SIZE": [2.5, -8],
    "EPOCHS": [-2, True, [3]],
    "LEARNING_RATE": [0, "fast", float("nan"), float("inf")],
    "SEED": ["x", -1, 2**70],
    "CHECKPOINT_DIR": ["", 3],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_with_those_that_exist(name, tmp_path):
    for value in WRONG[name]:
        with pytest.raises(ValueError) as error:
            check({"ROOT": tmp_path, name: value})
        assert str(error.value) == f"{name} = {value!r} does not exist: {CHOICES[name]}"


def test_every_knob_has_its_choices_and_the_lessons_values_pass(tmp_path):
    assert set(CHOICES) == set(WRONG) == rules.KNOBS
    for path in tool.lessons():
        values = {name: eval(text) for name, text in tool.knobs(tool.read(path)).items()}
        check({**values, "ROOT": tmp_path, "IMAGE_SIZE": 16, "DATA": "~/cats"})
    assert os.listdir(tmp_path) == []  # nothing is made before it is needed


def test_a_folder_that_is_none_or_may_not_be_written_to_is_named(tmp_path, as_nobody):
    (tmp_path / "file").write_text("")
    for name, value, why in (("CHECKPOINT_DIR", "file/runs", "nothing can be .*Not a directory"),
                             ("CHECKPOINT_DIR", "~/runs", "~ stands for nothing"),
                             ("CHECKPOINT_DIR", "/content/gdrive/MyDrive/x", "in no Google Drive"),
                             ("DATA", "$HOME/x", "HOME stands for nothing")):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{name}: .*{why}"):
            check({"ROOT": tmp_path, name: value})
    (tmp_path / "course").mkdir(mode=0o755)
    program = "from pathlib import Path; from colorize_utils.files.settings import check; "
    program += "check({'ROOT': Path(sys.argv[1]), 'CHECKPOINT_DIR': 'data/runs'})"
    said = as_nobody(program, tmp_path / "course").stderr
    assert "data/runs (Permission denied: change its permissions, or choose a folder" in said
    assert {path.name for path in tmp_path.rglob("*")} == {"course", "file"}


def test_other_pictures_another_size_or_width_have_another_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder(tmp_path, "sample", 32, 16) == tmp_path / "sample_32px_w16"
    names = [run_folder(tmp_path, f"{name}/train", 32, 16).name for name in ("cats", "dogs")]
    names += [run_folder(tmp_path, "cats/train", *case).name for case in ((64, 16), (32, 64))]
    assert len(set(names)) == 4 and all(name.startswith("train") for name in names)
    for same in "./cats/train/", f"{tmp_path}/dogs/../cats/train":
        assert run_folder(tmp_path, same, 32, 16).name == names[0]
