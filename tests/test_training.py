import math

import pytest
import torch
import torch.nn.functional as F

from colorize_utils.data import Images
from colorize_utils.files import checkpoint
from colorize_utils.lab import to_network
from colorize_utils.training import PaintGrey, batches, fit, validation_error
from colorize_utils.unet import UNet


def fresh(width=2):
    torch.manual_seed(0)
    return UNet(base_width=width)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_batches_cover_every_row_once():
    assert [len(rows) for rows in batches(10, 4)] == [4, 4, 2]
    assert torch.cat(batches(10, 4)).tolist() == list(range(10))
    shuffled = torch.cat(batches(100, 7, torch.Generator().manual_seed(0)))
    assert sorted(shuffled.tolist()) == list(range(100)) and shuffled.tolist() != list(range(100))


def test_learns(tiny):
    history = fit(fresh(8), tiny, epochs=8, batch_size=16, learning_rate=3e-3)
    assert len(history["train"]) == len(history["validation"]) == 8
    assert history["train"][-1] < 0.6 * history["train"][0]
    assert history["train"][-1] < validation_error(PaintGrey(), tiny.train)


def test_validation_error_is_the_mean_over_pictures_in_eval_mode(tiny):
    model = fresh().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    error = validation_error(model, tiny.validation, batch_size=7)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    L, ab = to_network(tiny.validation)
    with torch.no_grad():
        assert error == pytest.approx(F.mse_loss(model.eval()(L), ab).item(), rel=1e-5)
    assert validation_error(PaintGrey(), tiny.validation) == pytest.approx(
        (ab**2).mean().item(), rel=1e-5
    )


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


def test_the_seed_decides_the_order(tiny):
    a, b, c = fresh(), fresh(), fresh()
    for model, seed in ((a, 0), (b, 0), (c, 1)):
        fit(model, tiny, epochs=1, batch_size=16, seed=seed)
    assert same(a, b) and not same(a, c)


def test_every_epoch_has_an_order_of_its_own(tiny):
    seen = []

    def mse_loss(output, ab):
        seen.append(ab.sum().item())
        return F.mse_loss(output, ab)

    fit(fresh(), tiny, epochs=2, batch_size=16, loss=mse_loss)
    first, second = seen[:5], seen[7:12]  # five steps and two batches of validation an epoch
    assert sum(first) == pytest.approx(sum(second), rel=1e-4) and first != second


class Disconnect(Exception):
    pass


@pytest.mark.parametrize("calls", [1, 8, 12, 23])
def test_interrupted_anywhere_and_resumed_ends_bit_identical(tiny, tmp_path, calls):
    left = [calls]

    def mse_loss(output, ab):
        left[0] -= 1
        if left[0] == 0:
            raise Disconnect
        return F.mse_loss(output, ab)

    through, resumed = fresh(), fresh()
    history = fit(through, tiny, epochs=4, batch_size=16, folder=tmp_path / "through")
    with pytest.raises(Disconnect):
        fit(resumed, tiny, epochs=4, batch_size=16, loss=mse_loss, folder=tmp_path / "resumed")
    resumed = fresh()
    again = fit(resumed, tiny, epochs=4, batch_size=16, folder=tmp_path / "resumed")
    assert again == history and same(through, resumed)
    best, info = checkpoint.load(tmp_path / "resumed" / "best.pt")
    assert same(best, checkpoint.load(tmp_path / "through" / "best.pt")[0])


def test_keeps_the_best_and_the_last(tiny, tmp_path):
    model = fresh(4)
    history = fit(model, tiny, epochs=6, batch_size=16, learning_rate=0.02, folder=tmp_path)
    best, info = checkpoint.load(tmp_path / "best.pt")
    assert validation_error(best, tiny.validation) == pytest.approx(min(history["validation"]), rel=1e-5)
    assert (
        len(info["history"]["validation"]) == history["validation"].index(min(history["validation"])) + 1
    )
    assert same(checkpoint.load(tmp_path / "last.pt")[0], model)


def test_a_finished_run_is_not_trained_again(tiny, tmp_path):
    history = fit(fresh(), tiny, epochs=2, folder=tmp_path)
    model = fresh()
    assert fit(model, tiny, epochs=2, folder=tmp_path) == history
    assert same(model, checkpoint.load(tmp_path / "last.pt")[0])


def test_other_settings_are_refused_by_name(tiny, tmp_path):
    fit(fresh(), tiny, epochs=1, folder=tmp_path)
    untouched, model = fresh(), fresh()
    with pytest.raises(ValueError, match="learning_rate was 0.001, now 0.01"):
        fit(model, tiny, epochs=2, learning_rate=0.01, folder=tmp_path)
    with pytest.raises(ValueError, match="pictures was"):
        fit(model, Images(tiny.train.flip(0), tiny.validation, tiny.test), epochs=2, folder=tmp_path)
    assert same(model, untouched)
    with pytest.raises(ValueError, match="base_width=2, the model has base_width=4"):
        fit(fresh(4), tiny, epochs=2, folder=tmp_path)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_settings_of_nothing_are_refused(tiny, wrong):
    with pytest.raises(ValueError, match="must be above 0"):
        fit(fresh(), tiny, **{"epochs": 1, **wrong})
    with pytest.raises(ValueError, match="must be above 0"):
        fit(fresh(), Images(tiny.train[:0], tiny.validation, tiny.test), epochs=1)


def test_a_last_batch_of_one_works(tiny):
    larger = Images(*(F.interpolate(part.float(), size=32).byte() for part in tiny))
    one_left = Images(larger.train[:9], larger.validation, larger.test)
    assert math.isfinite(fit(fresh(), one_left, epochs=1, batch_size=8)["train"][0])
