"""A trained model on disk: written whole or not at all, read without running any code that a file could hide."""

import errno
import functools
import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import torch

from colorize_utils.unet import UNet

NORMALISATION = "L/50 - 1, ab/110"
PARTS = {"model", "info", "state", "architecture", "normalisation"}


def plain(model):
    """The net itself, without torch.compile around it."""
    return getattr(model, "_orig_mod", model)


def architecture(model) -> dict[str, int]:
    """What tells one U-Net from another.

    Raises:
        TypeError: it is another kind of net.
    """
    if not isinstance(plain(model), UNet):
        raise TypeError(
            f"only a UNet can be kept, not a {type(model).__name__}: train without a folder, and save it yourself"
        )
    return {key: getattr(plain(model), key) for key in ("in_channels", "out_channels", "base_width")}


class Damaged(ValueError):
    """The file is no checkpoint, or not a whole one."""


def save(path, model: UNet, info: dict, keep=None, **state) -> None:
    """Write `model`'s weights, `info` (settings and metrics) and training `state`.

    The file appears under its name only when it is complete and has been read back, so a crash leaves the
    one before untouched; `keep` is a path to move that one to.

    Raises:
        TypeError: `info` or `state` holds more than plain numbers, text, lists, dicts and tensors.
        OSError: the disk is full, or nothing can be written there. What was there before still is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "architecture": architecture(model),
        "normalisation": NORMALISATION,
        "info": info,
        "state": state,
    }
    content["model"] = {key: value.detach().cpu() for key, value in plain(model).state_dict().items()}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        torch.load(partial, map_location="cpu", weights_only=True)
        if keep and path.is_file():
            os.replace(path, keep)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer has the latter for a full disk
        raise OSError(
            f"could not write {path} ({error}): make room and run again; what was saved before is still there"
        ) from error
    except (pickle.PickleError, AttributeError) as error:
        raise TypeError(
            f"{path} was not written: keep to numbers, text, lists, dicts and tensors"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def fingerprint(pictures) -> str:
    """The shape of a set of pictures and a hash of about 64 of them: tells one set from another."""
    rows = torch.arange(0, len(pictures), max(1, len(pictures) // 64), device=pictures.device)
    digest = hashlib.sha256(pictures[rows].cpu().numpy().tobytes()).hexdigest()
    return f"{tuple(pictures.shape)}, {digest[:12]}"


def name_of(function) -> str:
    """A function's name, with what `functools.partial` has fixed; a module's repr."""
    if isinstance(function, functools.partial):
        fixed = [
            *map(repr, function.args),
            *(f"{key}={value!r}" for key, value in function.keywords.items()),
        ]
        return f"{name_of(function.func)}({', '.join(fixed)})"
    return getattr(function, "__name__", repr(function))


def read(path) -> dict:
    """The file's content as `save` wrote it: model, info, state, architecture, normalisation.

    Raises:
        FileNotFoundError: there is no such file.
        MemoryError, OSError: it cannot be read now, whatever it holds.
        Damaged: it is no checkpoint, or not a whole one. ValueError: it is not a checkpoint of this course.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {str(path)!r}: train one first (lesson 04)")
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():  # checksums, at which torch.load does not look
                raise zipfile.BadZipFile(broken)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, OSError) as error:
        if getattr(error, "errno", None) != errno.EINVAL:  # which a damaged zip can cause
            raise
        raise Damaged(f"{path} is damaged: delete it and train again") from error
    except Exception as error:  # damage shows as almost any exception
        raise Damaged(f"{path} is damaged or is no checkpoint: delete it and train again") from error
    if not isinstance(content, dict) or not PARTS <= content.keys():
        raise ValueError(
            f"{path} is not a checkpoint of this course: write one with colorize_utils.files.checkpoint.save"
        )
    if content["normalisation"] != NORMALISATION:
        raise ValueError(
            f"{path} was trained on {content['normalisation']}; this code feeds {NORMALISATION}"
        )
    return content


def load(path, device="cpu") -> tuple[UNet, dict]:
    """The model, in eval mode on `device`, and its info. Errors as for `read`."""
    content = read(path)
    model = UNet(**content["architecture"])
    model.load_state_dict(content["model"])
    return model.to(device).eval(), content["info"]


def check_shapes(mine: dict, stored: dict, message: str) -> None:
    """Raise a ValueError that names the first tensor of two state_dicts that differs in name or shape."""
    both = ({(key, value.shape) for key, value in state.items()} for state in (mine, stored))
    if other := set.symmetric_difference(*both):
        raise ValueError(f"{message}: {min(key for key, _ in other)} is not the same in both")


def check_architecture(model: UNet, content: dict, path) -> None:
    """Raise a ValueError that names the difference if `content` (from `read`) is of another net than `model`."""
    for key, mine in architecture(model).items():
        stored = content["architecture"][key]
        if mine != stored:
            raise ValueError(
                f"{path} holds a net with {key}={stored}, the model has {key}={mine}: "
                f"build UNet({key}={stored}), or use another CHECKPOINT_DIR"
            )
    check_shapes(plain(model).state_dict(), content["model"], f"{path} holds another kind of net")


def restore(path, model: UNet, settings: dict, **parts) -> dict:
    """Put a run's weights, and `parts` such as its optimizer, back to where `save` left them; return the content.

    Raises:
        Damaged, ValueError: as for `read`; or another architecture, `settings` differ from those in the info, or
            a part's state is not there. Model and parts are then as they were.
    """
    content = read(path)
    check_architecture(model, content, path)
    before = content["info"].get("settings", {})
    changed = [
        f"{key} was {before.get(key)!r}, now {value!r}"
        for key, value in settings.items()
        if before.get(key) != value
    ]
    if changed:
        raise ValueError(
            f"{path} was trained with other settings ({'; '.join(changed)}): set them back, "
            "use another CHECKPOINT_DIR, or delete its folder to start over"
        )
    if missing := [name for name in (*parts, "position") if name not in content["state"]]:
        raise ValueError(f"{path} has no state of {', '.join(missing)}: only a last.pt can be continued")
    kinds = content["state"]["position"]["parts"]
    for name, part in parts.items():
        if kinds[name] != type(part).__name__:
            raise ValueError(
                f"{path} has the state of {kinds[name]}, the {name} is {type(part).__name__}: use another CHECKPOINT_DIR"
            )
        if isinstance(part, torch.nn.Module):
            check_shapes(
                part.state_dict(), content["state"][name], f"{path} holds another kind of {name}"
            )
    plain(model).load_state_dict(content["model"])
    for name, part in parts.items():
        part.load_state_dict(content["state"][name])
    return content
