"""What breaks a training, for real: kills, interrupts, damage, a full disk, no memory, numbers that are none."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from colorize_utils.files import checkpoint
from colorize_utils.files.run import Run
from colorize_utils.training import fit, train_epoch
from colorize_utils.unet import UNet

ROOT = Path(__file__).resolve().parents[1]
KILLS = 20 if os.environ.get("STRESS") else 3
TRAIN = """
import sys, torch
from colorize_utils.data import Images, load_images
from colorize_utils.training import fit
from colorize_utils.unet import UNet
torch.set_num_threads(1)
images = load_images("sample", image_size=16)
images = Images(images.train[::5], images.validation[::10], images.test[:8])
torch.manual_seed(0)
model = UNet(base_width=2)
torch.optim.Adam(model.parameters())  # its first one takes seconds
print("START", flush=True)
fit(model, images, epochs=3, batch_size=8, folder=sys.argv[1], save_minutes=float(sys.argv[2]))
"""


def fresh(width=2):
    torch.manual_seed(0)
    return UNet(base_width=width)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def train(folder, minutes=0, program=TRAIN, **options):
    command = [sys.executable, "-u", "-c", program, str(folder), str(minutes)]
    env = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # fmt: skip


def position(folder):
    last = folder / "last.pt"  # missing for a moment in each save, while it is renamed
    content = checkpoint.read(last if last.exists() else folder / "previous.pt")
    return len(content["info"]["history"]["train"]), content["state"]["position"]["step"]


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole", minutes=99)
    assert whole.wait() == 0, whole.stderr.read()
    chance, places = random.Random(time.time_ns()), []
    for _ in range(KILLS):
        process = train(tmp_path / "killed")
        assert process.stdout.readline() == "START\n"
        while not (tmp_path / "killed" / "last.pt").exists() and process.poll() is None:
            time.sleep(0.01)  # a slow machine must have something to lose
        time.sleep(chance.uniform(0.02, 4 / KILLS))
        process.send_signal(signal.SIGKILL)
        process.wait()
        places.append(position(tmp_path / "killed"))
    assert places == sorted(places) and any(step for _, step in places), places
    process = train(tmp_path / "killed")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "going on after epoch" in output, (output, places)
    for name in ("last.pt", "best.pt"):
        one, other = (checkpoint.read(tmp_path / place / name) for place in ("whole", "killed"))
        assert one["info"] == other["info"], name
        assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"]), name


def test_an_interrupt_finishes_the_step_and_keeps_it(tmp_path):
    process = train(tmp_path / "run", minutes=99)
    assert process.stdout.readline() == "START\n" and process.stdout.readline().startswith("epoch 1")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert "stopping after this step" in output
    assert "KeyboardInterrupt" in errors and "run again to go on" in errors, errors
    assert sum(position(tmp_path / "run")) > 0
    assert train(tmp_path / "run", minutes=99).wait() == 0
    assert train(tmp_path / "whole", minutes=99).wait() == 0
    assert same(*(checkpoint.load(tmp_path / place / "last.pt")[0] for place in ("run", "whole")))


def interrupt_at(call):
    calls = iter(range(1, 10_000))

    def mse_loss(output, ab):
        if next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return F.mse_loss(output, ab)

    return mse_loss


@pytest.mark.parametrize("call", [1, 4, 5, 6, 7, 11])
def test_interrupted_in_training_or_validation_nothing_is_lost(tiny, tmp_path, call):
    through = fresh()
    history = fit(through, tiny, epochs=2, batch_size=16)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="run again to go on"):
        fit(fresh(), tiny, epochs=2, batch_size=16, folder=tmp_path, loss=interrupt_at(call))
    assert signal.getsignal(signal.SIGINT) == before
    assert position(tmp_path) == ((0, call) if call <= 5 else (1, max(0, call - 7)))
    resumed = fresh()
    assert fit(resumed, tiny, epochs=2, batch_size=16, folder=tmp_path) == history
    assert same(resumed, through)


def test_a_second_interrupt_stops_at_once(tiny, tmp_path):
    def mse_loss(output, ab):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), tiny, epochs=1, folder=tmp_path, loss=mse_loss)
    assert not list(tmp_path.iterdir())


def test_everything_with_a_state_goes_on(tiny, tmp_path):
    """Dropout, a scheduler and a scaler: each step depends on all that came before."""

    class Net(UNet):
        def forward(self, L):
            return F.dropout(super().forward(L), 0.3, self.training)

    def start(folder):
        torch.manual_seed(0)
        model = Net(base_width=2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=30)
        scaler = torch.amp.GradScaler("cpu")
        return Run(
            model, folder, save_minutes=0, optimizer=optimizer, scheduler=scheduler, scaler=scaler
        )

    def steps(run, count):
        generator = torch.Generator().manual_seed(run.step)
        for _ in range(count):
            L, ab = (
                torch.rand(4, 1, 16, 16, generator=generator),
                torch.rand(4, 2, 16, 16, generator=generator),
            )
            generator = torch.Generator().manual_seed(run.step + 1)
            run.parts["optimizer"].zero_grad()
            error = F.mse_loss(run.model(L), ab)
            run.parts["scaler"].scale(error).backward()
            run.parts["scaler"].step(run.parts["optimizer"])
            run.parts["scaler"].update()
            run.parts["scheduler"].step()
            run.average.update(error)
            run.after_step()
        return run

    whole = steps(start(tmp_path / "whole"), 12)
    steps(start(tmp_path / "parts"), 5)
    torch.manual_seed(99)
    resumed = start(tmp_path / "parts")
    assert resumed.step == 5
    steps(resumed, 7)
    assert same(whole.model, resumed.model)
    assert whole.average.value == resumed.average.value
    assert whole.parts["scheduler"].state_dict() == resumed.parts["scheduler"].state_dict()


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "gone"])
def test_a_damaged_last_falls_back_to_the_save_before(tiny, tmp_path, damage, capsys):
    through = fresh()
    history = fit(through, tiny, epochs=3, batch_size=16)
    fit(fresh(), tiny, epochs=2, batch_size=16, folder=tmp_path)
    last = tmp_path / "last.pt"
    content = last.read_bytes()
    if damage == "gone":
        last.unlink()
    else:
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 255
        last.write_bytes(
            {"empty": b"", "half": content[: len(content) // 2], "flipped": flipped}[damage]
        )
    capsys.readouterr()
    resumed = fresh()
    assert fit(resumed, tiny, epochs=3, batch_size=16, folder=tmp_path) == history
    for name in ("last.pt", "previous.pt"):
        checkpoint.read(tmp_path / name)  # both are good again
    said = capsys.readouterr().out
    assert ("last.pt is damaged: taking previous.pt" in said) == (damage != "gone")
    assert "going on after epoch 1" in said and same(resumed, through)


def test_the_good_save_is_not_moved_over_by_the_damaged_one(tiny, tmp_path):
    fit(fresh(), tiny, epochs=2, batch_size=16, folder=tmp_path)
    (tmp_path / "last.pt").write_bytes(b"x")
    Run(fresh(), tmp_path, optimizer=torch.optim.Adam(fresh().parameters()))  # and killed here
    assert position(tmp_path) == (1, 0)


def test_what_a_killed_save_leaves_is_swept_up(tiny, tmp_path):
    fit(fresh(), tiny, epochs=1, folder=tmp_path)
    (tmp_path / "last.pt.123.partial").write_bytes(b"half")
    fit(fresh(), tiny, epochs=2, folder=tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt", "previous.pt"]


def test_a_best_without_a_last_is_not_overwritten(tiny, tmp_path):
    fit(fresh(), tiny, epochs=1, folder=tmp_path)
    (tmp_path / "last.pt").unlink()
    with pytest.raises(ValueError, match="holds a best.pt and no last.pt: move it away"):
        fit(fresh(), tiny, epochs=1, folder=tmp_path)


def test_losses_are_told_apart_by_name(tiny, tmp_path):
    from functools import partial

    def train(loss, epochs=1):
        fit(fresh(), tiny, epochs=epochs, folder=tmp_path, loss=loss)

    train(partial(F.huber_loss, delta=0.1))
    train(partial(F.huber_loss, delta=0.1), epochs=2)
    with pytest.raises(
        ValueError, match=r"loss was 'huber_loss\(delta=0.1\)', now 'huber_loss\(delta=0.2\)'"
    ):
        train(partial(F.huber_loss, delta=0.2))
    with pytest.raises(
        ValueError, match="has no name by which a later run could know it: define it with def"
    ):
        train(lambda output, ab: F.mse_loss(output, ab))
    fit(fresh(), tiny, epochs=1, loss=lambda output, ab: F.mse_loss(output, ab))
    assert checkpoint.name_of(torch.nn.MSELoss()) == "MSELoss()"


def test_other_validation_pictures_are_refused(tiny, tmp_path):
    fit(fresh(), tiny, epochs=1, folder=tmp_path)
    with pytest.raises(ValueError, match="pictures was"):
        fit(fresh(), tiny._replace(validation=tiny.test), epochs=2, folder=tmp_path)


def test_another_kind_of_net_or_optimizer_is_named_before_anything_is_trained(tiny, tmp_path):
    class Wider(UNet):
        def __init__(self):
            super().__init__(base_width=2)
            self.more = torch.nn.Linear(2, 2)

    fit(fresh(), tiny, epochs=1, folder=tmp_path)
    model = Wider()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="holds another kind of net: more.bias"):
        fit(model, tiny, epochs=2, folder=tmp_path)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="has the state of Adam, the optimizer is SGD"):
        Run(fresh(), tmp_path, optimizer=torch.optim.SGD(fresh().parameters(), lr=0.1))
    with pytest.raises(TypeError, match="only a UNet can be kept, not a Conv2d"):
        fit(torch.nn.Conv2d(1, 2, 1), tiny, epochs=1, folder=tmp_path / "other")
    fit(torch.nn.Conv2d(1, 2, 1), tiny, epochs=1)


def test_a_compiled_net_is_kept_as_the_net_itself(tiny, tmp_path):
    compiled = torch.compile(fresh(), backend="eager")
    fit(compiled, tiny, epochs=1, batch_size=35, folder=tmp_path)
    loaded, _ = checkpoint.load(tmp_path / "last.pt")
    assert same(loaded, compiled._orig_mod)
    fit(torch.compile(fresh(), backend="eager"), tiny, epochs=2, batch_size=35, folder=tmp_path)
    plain = fresh()
    fit(plain, tiny, epochs=2, batch_size=35)
    assert same(plain, checkpoint.load(tmp_path / "last.pt")[0])


def test_a_disk_that_cannot_be_read_is_not_called_damage(tiny, tmp_path, as_nobody):
    fit(fresh(), tiny, epochs=1, folder=tmp_path)
    (tmp_path / "last.pt").chmod(0)
    program = "from colorize_utils.files import checkpoint; checkpoint.read(sys.argv[1])"
    done = as_nobody(program, tmp_path / "last.pt")
    assert "PermissionError" in done.stderr.splitlines()[-1], done.stderr


def test_both_damaged_is_an_error_and_not_a_fresh_start(tiny, tmp_path):
    fit(fresh(), tiny, epochs=2, folder=tmp_path)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="previous.pt is damaged"):
        fit(fresh(), tiny, epochs=3, folder=tmp_path)


def test_saves_come_at_intervals(tiny, tmp_path, monkeypatch):
    saves, now = [], [0.0]
    real = checkpoint.save
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda path, *a, **k: (saves.append((path.name, now[0])), real(path, *a, **k)),
    )

    def mse_loss(output, ab):
        now[0] += 60
        return F.mse_loss(output, ab)

    fit(fresh(), tiny, epochs=1, batch_size=10, folder=tmp_path, save_minutes=3, loss=mse_loss)
    assert saves == [("last.pt", 180), ("last.pt", 360), ("best.pt", 540), ("last.pt", 540)]


# ---- numbers that are none ----


def nan_at(call, value=math.nan):
    left = iter(range(call - 1))

    def mse_loss(output, ab):
        return F.mse_loss(output, ab) * (1 if next(left, None) is not None else value)

    return mse_loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_and_never_saved(tiny, tmp_path, value):
    with pytest.raises(FloatingPointError) as error:
        fit(
            fresh(),
            tiny,
            epochs=2,
            batch_size=16,
            folder=tmp_path,
            loss=nan_at(3, value),
            save_minutes=0,
        )
    said = str(error.value)
    assert f"the loss is {value} at step 3 of epoch 1, with learning rate 0.001" in said
    assert (
        "set a smaller LEARNING_RATE" in said
        and f"{tmp_path / 'last.pt'} holds the last good state" in said
    )
    assert position(tmp_path) == (0, 2)


def test_a_validation_error_that_is_not_finite_is_named(tiny, tmp_path):
    with pytest.raises(FloatingPointError, match="the validation error is nan at step 5 of epoch 1"):
        fit(fresh(), tiny, epochs=2, batch_size=16, folder=tmp_path, loss=nan_at(6))
    assert not list(tmp_path.iterdir())


def test_weights_destroyed_by_the_last_step_are_never_saved(tiny, tmp_path):
    with pytest.raises(FloatingPointError, match="at step 1 of epoch 1"):
        fit(fresh(), tiny, epochs=2, batch_size=70, learning_rate=1e30, folder=tmp_path, save_minutes=0)
    assert not (tmp_path / "best.pt").exists()
    if (tmp_path / "last.pt").exists():
        assert all(v.isfinite().all() for v in checkpoint.read(tmp_path / "last.pt")["model"].values())


def test_weights_that_are_not_finite_are_not_saved_although_the_loss_is(tmp_path):
    model = fresh()
    run = Run(model, tmp_path, save_minutes=0)
    run.average.update(1.0)
    with torch.no_grad():
        next(model.parameters())[0] = math.nan
    with pytest.raises(FloatingPointError, match="weights are no longer finite"):
        run.after_step()
    assert not list(tmp_path.iterdir())


# ---- memory and disk ----

NO_MEMORY = TRAIN.replace("fit(model", """
import resource
torch.optim.Adam(model.parameters())
used = int(open('/proc/self/statm').read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20,) * 2)
images = Images(images.train.repeat(40, 1, 1, 1), images.validation, images.test)
fit(model""").replace("batch_size=8", "batch_size=12_000")  # fmt: skip


def test_out_of_memory_names_the_knob(tmp_path):
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux, to limit a process's memory")
    process = train(tmp_path, program=NO_MEMORY)
    _, errors = process.communicate()
    assert (
        "MemoryError: out of memory with BATCH_SIZE = 12000: halve it, or lower IMAGE_SIZE or BASE_WIDTH"
        in errors
    ), errors


FULL = """
import sys, os
from pathlib import Path
from colorize_utils.files import checkpoint
from colorize_utils.unet import UNet
folder = Path(sys.argv[1])
model = UNet(base_width=2)
checkpoint.save(folder / "last.pt", model, {"n": 1})
with open(folder / "filler", "wb", buffering=0) as filler:
    try:
        while True: filler.write(bytes(4096))
    except OSError: pass
os.truncate(folder / "filler", os.path.getsize(folder / "filler") - 40_000)
try:
    checkpoint.save(folder / "last.pt", model, {"n": 2}, keep=folder / "previous.pt")
except OSError as error:
    print(error)
print(checkpoint.read(folder / "last.pt")["info"], sorted(os.listdir(folder)))
"""


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path):
    script = f'mount -t tmpfs -o size=1m none {tmp_path} || exit 77; {sys.executable} -c "$0" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, FULL], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode in (77, 127):
        pytest.skip("no small file system can be mounted here")
    assert "make room and run again; what was saved before is still there" in done.stdout, done.stderr
    assert "{'n': 1} ['filler', 'last.pt']" in done.stdout, done.stdout


def test_an_epoch_without_a_run_is_just_an_epoch(tiny):
    model = fresh()
    optimizer = torch.optim.Adam(model.parameters())
    error = train_epoch(model, tiny.train, optimizer, F.mse_loss, 16, torch.Generator().manual_seed(0))
    assert 0 < error < 1


def test_another_thread_can_train(tiny, tmp_path):
    import threading

    result = []
    thread = threading.Thread(
        target=lambda: result.append(fit(fresh(), tiny, epochs=1, folder=tmp_path))
    )
    thread.start()
    thread.join()
    assert len(result[0]["train"]) == 1
