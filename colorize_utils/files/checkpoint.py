"""A training's files: written whole or not at all, read without running any code that a file could hide."""

import contextlib
import dis
import functools
import hashlib
import io
import re
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import torch

from colorize_utils.files.disk import because, locked, place, write_whole

PLAIN = (bool, int, float, str, tuple, torch.Tensor, torch.nn.Module, types.FunctionType)
NO_MEMORY = re.compile("out of memory|not enough memory|allocate memory")  # GPUs, Windows, Linux
AGAIN = "use another folder, or delete this one to start over"


def write(path, content: dict) -> None:
    """Write tensors, numbers, text, lists and dicts; what was at `path` stays until all is there. OSError: it can't."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def read(path, keys=("model",)) -> dict:
    """What `write` wrote, on the CPU; it must have `keys`.

    Raises:
        FileNotFoundError: there is no such file. OSError: it cannot be read now, whatever it holds.
        ValueError: it is damaged, or no checkpoint.
    """
    path = Path(path)
    try:
        buffer = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint {path}: train one first (lesson 04)") from None
    except OSError as error:
        raise OSError(error.errno, f"could not read {path} ({because(error)})") from error
    try:
        with zipfile.ZipFile(buffer) as archive:
            if broken := archive.testzip():  # checksums, at which torch.load does not look
                raise zipfile.BadZipFile(broken)
        buffer.seek(0)
        content = torch.load(buffer, map_location="cpu", weights_only=True)
        if all(isinstance(content[key], dict) for key in keys):
            return content
    except MemoryError:
        raise
    except Exception as error:  # damage shows as almost any exception
        raise damaged(path) from error
    raise damaged(path)


def damaged(path) -> ValueError:
    return ValueError(f"{path} is damaged, or no checkpoint: delete it and train again")


@contextlib.contextmanager
def sole_use(folder):
    """Keep a second training out of `folder`, and give its whole path; None keeps nothing.

    Raises:
        BlockingIOError: another training is at work there. OSError, ValueError: nothing can be written there.
        MemoryError: what was done inside needed more memory than there is.
    """
    try:
        if folder is None:
            yield None
            return
        folder = place(folder)
        busy = f"another training is at work in {folder}: wait for it, or use another folder"
        with locked(folder / "lock", busy):
            yield folder
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        advice = "halve batch_size, or take smaller pictures or a smaller base_width"
        raise MemoryError(f"out of memory: {advice} ({str(error).splitlines()[0]})") from error


def last(folder: Path | None, run: dict) -> dict | None:
    """What last.pt of this `run` (from `identity`) holds; None where there is no training yet.

    Raises:
        ValueError: the folder has another run, its last.pt is damaged, or there is a best.pt alone.
    """
    if folder is None:
        return None
    path = folder / "last.pt"
    if not path.exists():
        if (folder / "best.pt").exists():
            raise ValueError(f"{folder} has a best.pt and no last.pt: move it away, or {AGAIN}")
        return None
    content = read(path, keys=("model", "optimizer", "loss", "history", "run"))
    before, history = content["run"], content["history"]
    if not all(
        isinstance(history.get(part), list) and history[part] for part in ("train", "validation")
    ):
        raise damaged(path)
    if changed := [
        f"{key} was {before.get(key)}, now {run[key]}" for key in run if before.get(key) != run[key]
    ]:
        raise ValueError(f"{path} is of another training ({'; '.join(changed)}): {AGAIN}")
    return content


def identity(model, optimizer, loss, step, images) -> dict[str, str]:
    """What a run is made of, each part as a name and a hash: two runs with equal values are the same.

    Of the net its layers count, not its weights, which change; of the loss every number and its code; of a
    set of pictures 256 of them.
    """
    layers = str(model), [(name, value.shape) for name, value in model.state_dict().items()]
    groups = [
        {key: x for key, x in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    pictures = {}
    for part, rows in (("train", images.train), ("validation", images.validation)):
        few = rows[torch.arange(0, len(rows), max(1, len(rows) // 256), device=rows.device)]
        pictures[part] = f"{named(few)} of {len(rows)}"
    rate = groups[0].get("lr")
    made_of = {"net": named(model, layers), "optimizer": f"{named(optimizer, groups)} at {rate}"}
    return made_of | {"loss": named(loss), "step": named(step)} | pictures


def named(thing, made_of=None) -> str:
    """A short name for a person, and eight digits that tell it from all others of that name."""
    name = getattr(thing, "__name__", type(thing).__name__)
    made_of = describe(thing if made_of is None else made_of)
    return f"{name} {hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]}"


def global_names(code: types.CodeType) -> set[str]:
    """The global names that a function's code reads; `co_names` would hold attributes, too."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return own.union(*map(global_names, inner))


def describe(thing, around=()):
    """Plain values, the same for equal things: a tensor's bytes, a module's numbers, a function's code and what it uses.

    `around` are the things that it is part of: what leads back to itself, or is nested too deeply, is only named.
    """
    if any(thing is outer for outer in around) or len(around) > 12:
        return type(thing).__name__
    for wrapper in ("_orig_mod", "_torchdynamo_orig_callable"):  # what torch.compile puts around a thing
        thing = getattr(thing, wrapper, thing)
    part = functools.partial(describe, around=(*around, thing))
    if isinstance(thing, torch.Tensor):
        data = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return [part(data), str(thing.dtype), list(thing.shape)]
    if isinstance(thing, np.ndarray):
        return [hashlib.sha256(thing.tobytes()).hexdigest(), str(thing.dtype), thing.shape]
    if isinstance(thing, torch.nn.Module):
        numbers = (
            {k: v for k, v in vars(m).items() if k[0] != "_" and k != "training"}
            for m in thing.modules()
        )
        return part([type(thing), list(numbers), dict(thing.state_dict())])
    if isinstance(thing, dict):
        return [[str(key), part(value)] for key, value in thing.items()]
    if isinstance(thing, (list, tuple)):
        return [part(value) for value in thing]
    if isinstance(thing, (set, frozenset)):
        return sorted(repr(part(value)) for value in thing)
    if isinstance(thing, functools.partial):
        return part([thing.func, thing.args, thing.keywords])
    if isinstance(thing, types.MethodType):
        return part([thing.__func__, thing.__self__])
    if isinstance(thing, types.CodeType):
        return part([thing.co_code, thing.co_names, thing.co_consts])
    if isinstance(thing, types.FunctionType):
        home = sys.modules.get(thing.__module__)
        if thing.__module__ != "__main__" and getattr(home, thing.__qualname__, None) is thing:
            return f"{thing.__module__}.{thing.__qualname__}"  # of a module: its name will do
        used = {name: thing.__globals__.get(name) for name in sorted(global_names(thing.__code__))}
        used = {name: value for name, value in used.items() if isinstance(value, PLAIN)}
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return part([thing.__code__, thing.__defaults__, used, cells])
    if hasattr(thing, "__dict__") and not isinstance(thing, (type, types.ModuleType)):
        return part([type(thing), vars(thing)])
    return re.sub(r" at 0x\w+", "", repr(thing))
