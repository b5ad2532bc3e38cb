"""A training's files: written whole or not at all, read without running any code that a file could hide."""

import contextlib
import dis
import functools
import hashlib
import io
import math
import re
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import torch

from colorize_utils.files.disk import because, locked, place, write_whole

CODE = (types.FunctionType, staticmethod, classmethod)
PLAIN = (bool, int, float, str, tuple, list, dict, torch.Tensor, torch.nn.Module, types.FunctionType)
INNER = vars(torch.nn.Module()).keys() - {"_parameters", "_buffers", "_modules"}  # every module's hooks
NO_MEMORY = re.compile("out of memory|not enough memory|allocate memory")  # GPUs, Windows, Linux
AGAIN = "use another folder, or delete this one to start over"


def write(path, content: dict) -> None:
    """Write tensors, numbers, text, lists and dicts; what was at `path` stays until all is there. OSError: it can't."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


@contextlib.contextmanager
def sound(path):
    """Whatever goes wrong while the content of a checkpoint is put to use is damage: a ValueError that names it."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no checkpoint: delete it and train again") from error


def read(path, keys=("model",)) -> dict:
    """What `write` wrote, on the CPU; each of `keys` must hold a dict.

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
    with sound(path):
        with zipfile.ZipFile(buffer) as archive:
            whole = archive.testzip() is None  # checksums, at which torch.load does not look
        buffer.seek(0)
        content = torch.load(buffer, map_location="cpu", weights_only=True)
        if not (whole and all(isinstance(content[key], dict) for key in keys)):
            raise ValueError
    return content


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
    path = folder and folder / "last.pt"
    if folder is None or not path.exists():
        if folder and (folder / "best.pt").exists():
            raise ValueError(f"{folder} has a best.pt and no last.pt: move it away, or {AGAIN}")
        return None
    content = read(path, keys=("model", "optimizer", "loss", "history", "run"))
    was = content["run"].get
    with sound(path):
        train, validation = (content["history"][part] for part in ("train", "validation"))
        if not (len(train) == len(validation) > 0 and all(map(math.isfinite, train + validation))):
            raise ValueError
    if changed := [f"{key} was {was(key)}, now {now}" for key, now in run.items() if was(key) != now]:
        raise ValueError(f"{path} is of another training ({'; '.join(changed)}): {AGAIN}")
    return content


def resume(folder: Path | None, run: dict, parts: dict) -> dict:
    """Put each of `parts` back to the end of the folder's last epoch; return the errors of each until then.

    Raises what `last` raises.
    """
    content = last(folder, run)
    if content is None:
        return {"train": [], "validation": []}
    with sound(folder / "last.pt"):
        for name, part in parts.items():
            if hasattr(part, "load_state_dict"):  # a function has none
                bare(part).load_state_dict(content[name])
    print(f"going on after epoch {len(content['history']['train'])}")
    return content["history"]


def save(folder: Path | None, run: dict, parts: dict, history: dict) -> None:
    """Keep the end of an epoch in last.pt, and in best.pt where its validation error is the lowest so far.

    Raises:
        ValueError: the errors are no numbers, and nothing is written. OSError: it can't be written.
    """
    if not math.isfinite(history["train"][-1] + history["validation"][-1]):
        raise ValueError("the error is not a number: lower the learning rate")
    if folder is None:
        return
    content = {name: getattr(bare(part), "state_dict", dict)() for name, part in parts.items()}
    content |= {"history": history, "run": run}
    if history["validation"][-1] == min(history["validation"]):
        write(folder / "best.pt", {key: value for key, value in content.items() if key != "optimizer"})
    write(folder / "last.pt", content)


def bare(part):
    """A net without what torch.compile puts around it."""
    return getattr(part, "_orig_mod", part)


def identity(model, optimizer, loss, step, images, **settings) -> dict:
    """What a run is made of: its settings, and each part as a name and a hash. Two runs with equal values are the same.

    Of the net its layers and code count, not its weights, which change; of the loss every number and its code.
    """
    model = bare(model)
    layers = str(model), [(name, list(value.shape)) for name, value in model.state_dict().items()]
    kinds = list(dict.fromkeys(map(type, model.modules())))
    groups = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
    made_of = {"net": named(model, [layers, kinds]), "loss": named(loss), "step": named(step)}
    made_of |= {"optimizer": f"{named(optimizer, groups)} at {groups[0].get('lr')}"}
    return (
        settings | made_of | {part: pictures(getattr(images, part)) for part in ("train", "validation")}
    )


def pictures(rows) -> str:
    """A set of pictures, known by 256 of them."""
    few = rows[torch.arange(0, len(rows), max(1, len(rows) // 256), device=rows.device)]
    return f"{named(few)} of {len(rows)}"


def named(thing, made_of=None) -> str:
    """A short name for a person, and eight digits that tell it from all others of that name."""
    name = getattr(thing, "__name__", type(thing).__name__)
    made_of = describe(thing if made_of is None else made_of)
    return f"{name} {hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]}"


def describe(thing, around=()):
    """Plain values, the same for equal things: a tensor's bytes, an object's numbers, the code of functions and classes.

    `around` are the things that it is part of: what leads back to itself, or is nested too deeply, is only named.
    """
    if any(thing is outer for outer in around) or len(around) > 20:
        return type(thing).__name__
    for wrapper in ("_orig_mod", "_torchdynamo_orig_callable"):  # what torch.compile puts around a thing
        thing = getattr(thing, wrapper, thing)
    part = functools.partial(describe, around=(*around, thing))
    if isinstance(thing, (torch.Tensor, np.ndarray)):
        flat = torch.as_tensor(thing).detach().cpu().contiguous().flatten().view(torch.uint8)
        return [hashlib.sha256(flat.numpy().tobytes()).hexdigest(), str(thing.dtype), *thing.shape]
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
    top = (getattr(thing, "__module__", None) or "builtins").partition(".")[0]
    native = top == "torch" or (top in sys.stdlib_module_names and top != "__main__")
    if isinstance(thing, types.FunctionType) and not native:
        used = {name: thing.__globals__.get(name) for name in sorted(global_names(thing.__code__))}
        used = {name: value for name, value in used.items() if isinstance(value, PLAIN)}
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return part([thing.__code__, thing.__defaults__, thing.__kwdefaults__, used, cells])
    if isinstance(thing, type) and not native:
        own = {k: getattr(v, "__func__", v) for k, v in vars(thing).items()}
        own = {k: v for k, v in own.items() if isinstance(v, CODE if k[:2] == "__" else CODE + PLAIN)}
        return part([thing.__qualname__, own, thing.__bases__])
    if hasattr(thing, "__dict__") and not isinstance(thing, (*CODE, type, types.ModuleType)):
        return part([type(thing), {k: v for k, v in vars(thing).items() if k not in INNER}])
    return re.sub(r" at 0x\w+", "", repr(thing))


def global_names(code: types.CodeType) -> set[str]:
    """The global names that a function's code reads; `co_names` would hold attributes, too."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return own.union(*map(global_names, inner))
