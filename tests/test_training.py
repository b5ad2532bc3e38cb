"""Lesson 04's loop, and what breaks a training for real: kills, damage, a full disk, no memory, another run in the same folder."""

import functools
import math
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import lessons
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from colorize_utils.data import Images
from colorize_utils.files import checkpoint
from colorize_utils.lab import to_network
from colorize_utils.losses import WeightedMSE
from colorize_utils.training import PaintGrey, batches, fit, plain_step, validation_error
from colorize_utils.unet import UNet

ROOT = Path(__file__).resolve().parents[1]
KILLS = 20 if os.environ.get("STRESS") else 3


def fresh(width=2):
    torch.manual_seed(0)
    return UNet(base_width=width)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def weights(path):
    net = fresh()
    net.load_state_dict(checkpoint.read(path)["model"])
    return net


# ---- the loop ----


def test_batches_cover_every_row_once():
    assert [len(rows) for rows in batches(10, 4)] == [4, 4, 2]
    assert torch.cat(batches(10, 4)).tolist() == list(range(10))
    shuffled = torch.cat(batches(100, 7, shuffle=True)).tolist()
    assert sorted(shuffled) == list(range(100)) != shuffled


def test_learns(tiny):
    history = fit(fresh(8), tiny, epochs=8, batch_size=16, learning_rate=3e-3)
    assert len(history["train"]) == len(history["validation"]) == 8
    assert history["train"][-1] < 0.6 * history["train"][0]
    assert history["train"][-1] < validation_error(PaintGrey(), tiny.train)


def test_validation_error_is_the_mean_over_pictures_in_eval_mode(tiny):
    L, ab = to_network(tiny.validation)
    for training in (True, False):
        model = fresh().train(training)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        error = validation_error(model, tiny.validation, batch_size=7)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert model.training == model.first[1].training == training  # as it was
        with torch.no_grad():
            assert error == pytest.approx(F.mse_loss(model.eval()(L), ab).item(), rel=1e-5)
    grey = pytest.approx((ab**2).mean().item(), rel=1e-5)
    assert validation_error(PaintGrey(), tiny.validation) == grey


def test_a_model_in_eval_mode_is_trained_like_any_other(tiny):
    one, other = fresh().eval(), fresh()
    fit(one, tiny, epochs=1), fit(other, tiny, epochs=1)
    assert same(one, other)


def test_one_step_is_adam_on_the_given_loss(tiny):
    one = Images(tiny.train[:8], tiny.validation, tiny.test)
    model, by_hand = fresh().train(), fresh().train()
    fit(model, one, epochs=1, batch_size=8, learning_rate=0.01, loss=F.l1_loss)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    L, ab = to_network(one.train[order])
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    F.l1_loss(by_hand(L), ab).backward()
    optimizer.step()
    assert same(model, by_hand)


def test_the_seed_decides_the_order_and_every_epoch_has_its_own(tiny):
    a, b, c = fresh(), fresh(), fresh()
    seen = []

    def step(model, L, ab, loss, optimizer):
        seen.append(L.sum().item())
        return plain_step(model, L, ab, loss, optimizer)

    for model, seed in ((a, 0), (b, 0), (c, 1)):
        fit(model, tiny, epochs=2, batch_size=16, seed=seed, step=step)
    assert same(a, b) and not same(a, c)
    first, second = seen[:5], seen[5:10]
    assert first != second and sum(first) == pytest.approx(sum(second), abs=1e-2)


def test_optimizer_step_and_after_epoch_are_the_callers(tiny):
    model, rates = fresh(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)

    def halve(history):
        rates.append((len(history["validation"]), optimizer.param_groups[0]["lr"]))
        optimizer.param_groups[0]["lr"] /= 2

    def no_step(model, L, ab, loss, optimizer):
        return loss(model(L), ab)

    history = fit(model, tiny, epochs=3, optimizer=optimizer, step=no_step, after_epoch=halve)
    assert rates == [(1, 0.4), (2, 0.2), (3, 0.1)] and len(history["train"]) == 3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh().parameters()))


@pytest.mark.parametrize("count, side", [(9, 32), (33, 16), (17, 1)])
def test_a_last_batch_of_one_trains_at_any_size(tiny, count, side):
    pictures = F.interpolate(tiny.train.float(), size=side).byte()[:count]
    few = Images(pictures, pictures[:3], pictures)
    assert math.isfinite(fit(fresh(), few, epochs=1, batch_size=(count - 1) // 2)["train"][0])


@pytest.mark.parametrize("name", ["batch_size", "epochs"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "64"])
def test_a_wrong_number_is_named(tiny, name, value):
    with pytest.raises(AssertionError, match=f"{name} must be 1 or more, not {value!r}"):
        fit(fresh(), tiny, **{"epochs": 1, name: value})


def test_the_lines_that_survive_a_disconnect_do(tmp_path, monkeypatch):
    """The lesson's fenced lines: what stands before the empty line saves, what stands after it goes on."""
    monkeypatch.chdir(tmp_path)
    (path,) = ROOT.glob("notebooks/04_*.ipynb")
    text = "\n".join(cell.source for cell in lessons.read(path).cells if cell.cell_type == "markdown")
    keep, go_on = re.search(r"```python\n(state = .*?)\n```", text, re.S)[1].split("\n\n")
    model = torch.nn.Conv2d(1, 2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    here = {
        "os": os,
        "torch": torch,
        "device": "cpu",
        "EPOCHS": 3,
        "model": model,
        "optimizer": optimizer,
    }
    here["history"] = {"train": [0.5], "validation": [0.4]}
    exec(keep, here)
    assert os.listdir() == ["last.pt"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = torch.nn.Conv2d(1, 2, 1)
    here |= {"model": fresh, "optimizer": torch.optim.Adam(fresh.parameters()), "history": None}
    exec(go_on, here)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    assert here["optimizer"].state and here["history"]["train"] == [0.5] and here["epoch"] == 2


def test_the_loop_runs_as_it_is_pasted(elsewhere, tmp_path):
    """The lesson's cells that are tagged paste, in a file of their own in an empty folder, with the package on the path."""
    notebook = lessons.read(next(ROOT.glob("notebooks/04_*.ipynb")))
    lessons.set_knobs(notebook, {"BASE_WIDTH": 4, "EPOCHS": 2})
    cells = [cell.source for cell in lessons.code(notebook) if "paste" in cell.metadata.get("tags", [])]
    lines = [line for cell in cells for line in cell.splitlines() if line[:1] != "%"]
    (tmp_path / "loop.py").write_text("\n".join(['ROOT = "."', *lines]))
    (tmp_path / "colorize_utils").symlink_to(ROOT / "colorize_utils")
    env = elsewhere | {"PYTHONPATH": elsewhere["PYTHONPATH"], "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "loop.py"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    errors = re.findall(r"^epoch \d: train (\S+) validation (\S+)$", done.stdout, re.M)
    assert len(errors) == 2 and float(errors[1][0]) < float(errors[0][0]), done.stderr


# ---- stopped and going on ----

TRAIN = """
import sys, torch
from colorize_utils.data import Images, load_images
from colorize_utils.training import fit
from colorize_utils.unet import UNet
torch.set_num_threads(1)
images = load_images("sample", image_size=16)
images = Images(images.train[::8], images.validation[::10], images.test[:8])
torch.manual_seed(0)
model = UNet(base_width=2)
torch.optim.Adam(model.parameters())  # its first one takes seconds
print("START", flush=True)
fit(model, images, epochs=EPOCHS, batch_size=8, folder=sys.argv[1])
""".replace("EPOCHS", str(4 * KILLS))


def train(folder, program=TRAIN):
    env = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-u", "-c", program, folder], cwd=ROOT, env=env, **pipes)


def epochs_in(folder):
    return len(checkpoint.read(folder / "last.pt")["history"]["train"])


def test_killed_at_random_moments_a_run_loses_an_epoch_at_most_and_ends_with_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    chance, done, last = random.Random(time.time_ns()), 0, tmp_path / "killed" / "last.pt"
    for _ in range(KILLS):
        process = train(tmp_path / "killed")
        assert process.stdout.readline() == "START\n", process.stderr.read()
        while not last.exists():  # a slow machine must have something to lose
            assert process.poll() is None, process.stderr.read()
        time.sleep(chance.uniform(0, 1))
        process.kill()
        printed = [line for line in process.communicate()[0].splitlines() if line.startswith("epoch")]
        before, done = done, epochs_in(tmp_path / "killed")
        assert before <= done and done + 1 >= before + len(printed)  # an epoch at most is lost
    process = train(tmp_path / "killed")
    output, errors = process.communicate()
    assert process.returncode == 0 and f"going on after epoch {done}\n" in output, errors
    for name in ("last.pt", "best.pt"):
        one, other = (checkpoint.read(tmp_path / place / name) for place in ("whole", "killed"))
        assert one["history"] == other["history"], name
        assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"]), name
    assert sorted(os.listdir(tmp_path / "killed")) == ["best.pt", "last.pt", "lock"]


class Dropping(UNet):
    def forward(self, L):
        return F.dropout(super().forward(L), 0.3, self.training)


class Counting(nn.MSELoss):
    """A loss with a state that changes: each call weighs more than the one before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, output, ab):
        self.calls += 1
        return super().forward(output, ab) * (1 + self.calls / 100)


def test_random_layers_optimizer_rates_and_a_loss_with_a_state_go_on(tiny, tmp_path):
    def run(folder, epochs, seen=None):
        torch.manual_seed(0)
        model = Dropping(base_width=2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

        def decay(history):
            optimizer.param_groups[0]["lr"] *= 0.7
            if seen == len(history["train"]):
                raise KeyboardInterrupt

        options = {"optimizer": optimizer, "after_epoch": decay, "folder": folder, "loss": Counting()}
        return model, fit(model, tiny, epochs=epochs, batch_size=16, **options)

    through, history = run(tmp_path / "through", 4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 4, seen=3)
    assert epochs_in(tmp_path / "parts") == 2
    torch.manual_seed(99)
    resumed, again = run(tmp_path / "parts", 4)
    assert again == history and same(through, resumed)
    assert run(tmp_path / "parts", 4)[1] == history  # a finished run is not trained again


def test_keeps_the_best_and_the_last(tiny, tmp_path):
    model = fresh()
    history = fit(model, tiny, epochs=6, batch_size=16, learning_rate=0.02, folder=tmp_path)
    best = checkpoint.read(tmp_path / "best.pt")
    lowest = min(history["validation"])
    assert best["history"]["validation"][-1] == lowest == min(best["history"]["validation"])
    error = validation_error(weights(tmp_path / "best.pt"), tiny.validation)
    assert error == pytest.approx(lowest, rel=1e-5)
    assert same(weights(tmp_path / "last.pt"), model)


def test_a_compiled_net_is_kept_as_the_net_itself(tiny, tmp_path):
    for epochs in (1, 2):
        compiled = torch.compile(fresh(), backend="eager")
        fit(compiled, tiny, epochs=epochs, batch_size=35, folder=tmp_path)
    plain = fresh()
    fit(plain, tiny, epochs=2, batch_size=35)
    assert same(plain, weights(tmp_path / "last.pt"))


# ---- another run in the same folder ----


def table(value):
    """Weights with the extremes of all others, and one cell of its own."""
    weights = torch.ones(23, 23)
    weights[0, 0], weights[22, 22], weights[11, 11] = 0.5, 5.0, value
    return weights


def cell(text, k):
    """A loss as a notebook's cell defines it; another cell has a variable that is called like a method."""
    space = {"F": F, "nn": nn, "__name__": "__main__", "abs": time.time()}
    exec("S = K\ndef make(s): return lambda o, t: s * F.l1_loss(o, t)\n".replace("K", str(k)), space)
    exec(text.replace("K", str(k)), space)
    return {"loss": space["loss"]}


BODY = "def loss(output, ab): return "
CLASS = "class Loss(nn.Module):\n p = 1\n def forward(self, o, t): return self.p * F.l1_loss(o, t)\nloss = Loss()"
OTHERS = {  # what a run is made of, with another number in each
    "table": lambda k: {"loss": WeightedMSE(table(k))},
    "number of a module": lambda k: {"loss": nn.HuberLoss(delta=k)},
    "partial": lambda k: {"loss": functools.partial(F.huber_loss, delta=k)},
    "closure": lambda k: cell("loss = make(K)", k),
    "body": lambda k: cell(BODY + "K * (output - ab).abs().mean()", k),
    "class": lambda k: cell(CLASS.replace("self.p *", "K *"), k),
    "number of a class": lambda k: cell(CLASS.replace("p = 1", "p = K"), k),
    "private number": lambda k: cell(CLASS + "\nloss._p = K", k),
    "keyword": lambda k: cell("def loss(o, t, *, p=K): return p * F.l1_loss(o, t)", k),
    "global": lambda k: cell(BODY + "S * F.mse_loss(output, ab)", k),
    "inner global": lambda k: cell(BODY + "sum(S * x for x in (output - ab).abs().mean((1, 2, 3)))", k),
    "function": lambda k: {"loss": F.l1_loss if k == 1 else F.mse_loss},
    "rate": lambda k: {"learning_rate": k / 100},
    "batch size": lambda k: {"batch_size": 16 * k},
    "seed": lambda k: {"seed": k},
    "step": lambda k: {"step": functools.partial(plain_step) if k == 1 else plain_step},
    "net": lambda k: {"model": fresh(2 * k)},
    "optimizer": lambda k: {"optimizer": torch.optim.SGD if k == 1 else torch.optim.Adam},
    "train": lambda k: {"train": torch.arange(70) if k == 1 else torch.arange(70).flip(0)},
    "validation": lambda k: {"validation": torch.arange(20) if k == 1 else torch.arange(19)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_before_anything_is_touched(name, tiny, tmp_path):
    def run(model=None, optimizer=None, train=slice(70), validation=slice(20), epochs=1, **settings):
        model = model or fresh()
        optimizer = optimizer and optimizer(model.parameters())
        images = tiny._replace(train=tiny.train[train], validation=tiny.validation[validation])
        return fit(model, images, epochs=epochs, optimizer=optimizer, folder=tmp_path, **settings)

    history = run(**OTHERS[name](1))
    assert run(**OTHERS[name](1)) == history
    before, other = (tmp_path / "last.pt").read_bytes(), {"model": fresh(), **OTHERS[name](2)}
    named = name if name in "net optimizer step train validation seed" else ""
    with pytest.raises(ValueError, match=f"is of another training .*{named} was .*, now "):
        run(epochs=2, **other)
    assert same(other["model"], fresh(4 if name == "net" else 2))
    assert (tmp_path / "last.pt").read_bytes() == before
    if name == "table":
        assert torch.equal(other["loss"].weights, table(2))


def test_a_second_training_in_a_folder_is_kept_out(tiny, tmp_path):
    first = train(tmp_path)
    assert first.stdout.readline() == "START\n" and first.stdout.readline().startswith("epoch 1")
    with pytest.raises(BlockingIOError, match="another training is at work in"):
        fit(fresh(), tiny, epochs=1, folder=tmp_path)
    assert first.wait() == 0, first.stderr.read()
    with pytest.raises(ValueError, match="another training"):
        fit(fresh(), tiny, epochs=1, folder=tmp_path)


# ---- damage ----


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def spoiled(path, damage):
    content = path.read_bytes()
    if damage == "flipped":
        content = bytearray(content)
        content[len(content) // 2] ^= 255
    elif isinstance(damage, str):
        content = checkpoint.read(path)
        harm = {"null": {"history": None}, "empty": {"model": {}}, "short": {"history": {"train": []}}}
        content |= harm.get(damage, {})
        content.pop(damage, None)
        return checkpoint.write(path, content)
    path.write_bytes(damage if isinstance(damage, bytes) else content[: len(content) // 2 or 1])


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", 1 / 2, "flipped", "history", "run", "optimizer", "null", "empty", "short"])  # fmt: skip
def test_a_damaged_last_is_named_and_nothing_is_trained_over_it(tiny, tmp_path, damage):
    fit(fresh(), tiny, epochs=1, folder=tmp_path)
    spoiled(tmp_path / "last.pt", damage)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match="last.pt is damaged, or no checkpoint: delete it and train"):
        fit(fresh(), tiny, epochs=2, folder=tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before
    (tmp_path / "last.pt").unlink()
    with pytest.raises(ValueError, match="has a best.pt and no last.pt: move it away"):
        fit(fresh(), tiny, epochs=1, folder=tmp_path)


def test_a_file_that_would_run_code_is_refused_and_a_missing_one_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, "trap.pt")
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.read("trap.pt")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(FileNotFoundError, match="train one first"):
        checkpoint.read("none.pt")


def test_a_file_that_cannot_be_read_is_not_called_damage(tmp_path, as_nobody):
    checkpoint.write(tmp_path / "last.pt", {"model": {}})
    (tmp_path / "last.pt").chmod(0)
    program = "from colorize_utils.files import checkpoint; checkpoint.read(sys.argv[1])"
    done = as_nobody(program, tmp_path / "last.pt")
    assert "could not read" in done.stderr and "choose a folder that you may" in done.stderr, done.stderr


def nan_in(epoch, value):
    """A step whose error is no number from some epoch of five steps on."""
    count = iter(range(1000))

    def step(*arguments):
        return plain_step(*arguments) * (value if next(count) >= 5 * (epoch - 1) else 1)

    return step


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_stop_the_run_and_are_never_saved(tiny, tmp_path, value):
    with pytest.raises(AssertionError, match="not a number: lower the learning rate"):
        fit(fresh(), tiny, epochs=4, batch_size=16, folder=tmp_path, step=nan_in(3, value))
    assert epochs_in(tmp_path) == 2
    with pytest.raises(ValueError, match="not a number: lower the learning rate"):  # on validation first
        fit(fresh(), tiny, epochs=2, batch_size=70, learning_rate=1e30, folder=tmp_path / "other")
    assert os.listdir(tmp_path / "other") == ["lock"]


# ---- disk and memory ----


def test_a_folder_that_cannot_be_made_is_found_before_the_first_epoch(tiny, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="nothing can be written to"):
        fit(fresh(), tiny, epochs=1, folder=tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="write the whole path"):
        fit(fresh(), tiny, epochs=1, folder="~somebody/run")
    assert "epoch" not in capsys.readouterr().out


NO_MEMORY = TRAIN.replace("fit(model", """
import resource
used = int(open('/proc/self/statm').read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20,) * 2)
images = Images(images.train.repeat(60, 1, 1, 1), images.validation, images.test)
fit(model""").replace("batch_size=8", "batch_size=12_000")  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux, to limit memory")
def test_out_of_memory_says_what_to_make_smaller(tmp_path):
    _, errors = train(tmp_path, NO_MEMORY).communicate()
    assert "MemoryError: out of memory: halve batch_size" in errors, errors
