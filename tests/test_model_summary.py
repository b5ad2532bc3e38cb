import copy

import pytest
import torch
import torchinfo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from colorize_utils.model_summary import summary
from colorize_utils.unet import UNet


class Shared(nn.Module):
    """One layer used twice, and a second one with the first one's weight."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.other.weight = self.one.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.other(self.one(self.one(x))))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(3, 4, 3, groups=1, padding=1)
        self.vector = nn.Linear(5, 4)

    def forward(self, image, vector):
        return self.image(image), self.vector(vector)[:, :, None, None]


def flops(model, *inputs) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).eval()(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("training", [True, False])
def test_full_unet_equals_torchinfo_and_the_flop_counter(training):
    model = UNet().train(training)
    ours = summary(model, (2, 1, 32, 32), verbose=False)
    reference = torchinfo.summary(model, (2, 1, 32, 32), verbose=0)
    assert ours.total_parameters == reference.total_params == 31_042_434
    assert ours.trainable_parameters == reference.trainable_params
    assert ours.parameter_bytes == reference.total_param_bytes
    assert ours.input_bytes == 2 * 32 * 32 * 4
    assert 2 * ours.multiply_adds == flops(model, torch.zeros(2, 1, 32, 32))
    # torchinfo counts an output twice, once for the gradient, and leaves out layers without parameters
    with_parameters = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    modules = dict(model.named_modules())
    counted = [row for row in ours.layers if isinstance(modules[row.name], with_parameters)]
    assert (
        2 * sum(4 * torch.Size(row.output_shape).numel() for row in counted)
        == reference.total_output_bytes
    )


def test_rows_equal_torchinfos():
    model = UNet(base_width=8)
    ours = summary(model, (1, 1, 32, 48), verbose=False)
    reference = torchinfo.summary(model, (1, 1, 32, 48), verbose=0).summary_list
    reference = [row for row in reference if row.class_name != "ModuleList"]
    assert [row.type for row in ours.layers] == [row.class_name for row in reference]
    assert [list(row.output_shape) for row in ours.layers] == [row.output_size for row in reference]
    assert [row.parameters for row in ours.layers] == [row.num_params for row in reference]


def test_shared_weights_count_once():
    ours = summary(Shared(), (4, 8), verbose=False)
    assert ours.total_parameters == 8 * 8 + 8 + 8 + 8 * 3 + 3
    assert ours.multiply_adds == 4 * (3 * 8 * 8 + 8 * 3)
    once, again, tied, head = ours.layers[1:]
    assert (once.parameters, again.parameters, tied.parameters, head.parameters) == (72, 0, 8, 27)
    assert again.shared and not tied.shared
    assert "(shared)" in str(ours)
    reused = nn.Sequential(layer := nn.Linear(8, 8), nn.ReLU(), layer)
    reference = torchinfo.summary(reused, (4, 8), verbose=0)
    assert summary(reused, (4, 8), verbose=False).total_parameters == reference.total_params == 72


def test_several_inputs_and_outputs():
    model = TwoInputs()
    ours = summary(model, [(2, 3, 6, 7), (2, 5)], verbose=False)
    reference = torchinfo.summary(model, [(2, 3, 6, 7), (2, 5)], verbose=0)
    assert ours.total_parameters == reference.total_params
    assert ours.layers[0].output_shape == ((2, 4, 6, 7), (2, 4, 1, 1))
    assert 2 * ours.multiply_adds == flops(model, torch.zeros(2, 3, 6, 7), torch.zeros(2, 5))
    data = [torch.zeros(2, 3, 6, 7), torch.zeros(2, 5)]
    assert summary(model, input_data=data, verbose=False) == ours


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_halves_the_bytes(dtype):
    model = UNet(base_width=8)
    single = summary(model, (1, 1, 32, 32), verbose=False)
    half = summary(model.to(dtype), (1, 1, 32, 32), verbose=False)
    reference = torchinfo.summary(model, input_data=torch.zeros(1, 1, 32, 32, dtype=dtype), verbose=0)
    assert half.parameter_bytes * 2 == single.parameter_bytes
    assert half.output_bytes * 2 == single.output_bytes
    assert half.parameter_bytes == reference.total_param_bytes


def test_grouped_strided_and_transposed_convolutions():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, groups=2),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, bias=False),
        nn.Conv2d(6, 2, 1),
    )
    ours = summary(model, (3, 4, 21, 17), verbose=False)
    assert 2 * ours.multiply_adds == flops(model, torch.zeros(3, 4, 21, 17))
    assert ours.layers[0].multiply_adds == ours.multiply_adds


def test_leaves_the_model_as_it_was():
    model = UNet(base_width=8).train()
    model.first.eval()  # a mixture of modes
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    summary(model, (1, 1, 32, 32), verbose=False)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert len(model._forward_hooks) == 1 and calls == [1]
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_cleans_up_after_a_failing_forward():
    model = UNet(base_width=8)
    with pytest.raises(ValueError, match="must have the shape"):
        summary(model, (1, 3, 32, 32))
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_prints_a_table(capsys):
    summary(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (2, 3, 4), depth=0)
    printed = capsys.readouterr().out
    assert "Sequential" in printed and "Linear" not in printed
    assert "65 (65 trainable)" in printed and "120" in printed


@pytest.mark.parametrize(
    "arguments",
    [{}, {"input_size": (1, 0)}, {"input_size": ()}, {"input_size": "ab"}, {"input_size": 5}],
)
def test_bad_sizes_are_named(arguments):
    with pytest.raises(ValueError, match="input_size"):
        summary(nn.Linear(2, 2), **arguments)
