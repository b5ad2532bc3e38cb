import os

import numpy as np
import pytest
import torch

from colorize_utils.files import checkpoint
from colorize_utils.unet import UNet


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = UNet(base_width=2)
    checkpoint.save(
        tmp_path / "run" / "best.pt", model, {"settings": {"seed": 3}, "history": {"train": [1.0]}}
    )
    return model, tmp_path / "run" / "best.pt"


def test_round_trip(saved):
    model, path = saved
    loaded, info = checkpoint.load(path)
    assert info == {"settings": {"seed": 3}, "history": {"train": [1.0]}}
    assert loaded.base_width == 2 and not loaded.training
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values())
    )
    assert checkpoint.read(path)["normalisation"] == "L/50 - 1, ab/110"


def test_a_failed_save_leaves_the_old_file_and_no_debris(saved):
    model, path = saved
    before = path.read_bytes()
    for not_storable in (lambda: None, np.float64(1.0), path):
        with pytest.raises(TypeError, match="was not written: keep to numbers"):
            checkpoint.save(path, model, {"info": not_storable})
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == ["best.pt"]


def test_a_save_puts_a_new_file_in_place_and_never_writes_into_the_old_one(saved):
    model, path = saved
    before, witness = path.read_bytes(), path.with_name("witness")
    os.link(path, witness)  # the same file under a second name
    checkpoint.save(path, model, {"settings": {"seed": 4}})
    assert witness.read_bytes() == before and path.read_bytes() != before


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, "trap.pt")
    with pytest.raises(ValueError, match="damaged or is no checkpoint"):
        checkpoint.load("trap.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_damaged_files_are_named(saved, content):
    _, path = saved
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(ValueError, match="best.pt is damaged"):
        checkpoint.load(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="train one first"):
        checkpoint.load(tmp_path / "none.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="not a checkpoint of this course"):
        checkpoint.load(tmp_path / "foreign.pt")


def test_only_a_last_checkpoint_can_be_continued(saved):
    model, path = saved
    with pytest.raises(ValueError, match="no state of optimizer, position: only a last.pt"):
        checkpoint.restore(path, model, {"seed": 3}, optimizer=torch.optim.Adam(model.parameters()))


def test_fingerprints_tell_sets_apart(tiny):
    one = checkpoint.fingerprint(tiny.train)
    assert one == checkpoint.fingerprint(tiny.train.clone())
    assert (
        len({one, checkpoint.fingerprint(tiny.train[1:]), checkpoint.fingerprint(tiny.train // 2)}) == 3
    )


def test_another_normalisation_is_refused(saved, monkeypatch):
    _, path = saved
    monkeypatch.setattr(checkpoint, "NORMALISATION", "L/100, ab/128")
    with pytest.raises(ValueError, match="was trained on L/50 - 1, ab/110; this code feeds L/100"):
        checkpoint.load(path)


def test_another_width_is_refused(saved):
    _, path = saved
    with pytest.raises(ValueError, match="base_width=2, the model has base_width=4"):
        checkpoint.restore(path, UNet(base_width=4), {})
