import copy
import functools

import numpy as np
import pytest
import torch
import torchinfo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from colorize_utils.model_summary import summary
from colorize_utils.unet import UNet


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.vector = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, image, vector):
        return self.image(image), {"vector": self.vector(vector)[:, :, None, None]}


def flops(model, *inputs) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).eval()(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("width, dtype", [(32, torch.float32), (48, torch.bfloat16)])
def test_unet_equals_torchinfo_and_the_flop_counter(width, dtype):
    model, x = UNet(base_width=8).to(dtype), torch.zeros(2, 1, 32, width, dtype=dtype)
    model.last.requires_grad_(False)
    ours = summary(model, x.shape, verbose=False)
    reference = torchinfo.summary(model, input_data=x, verbose=0)
    assert ours.total_parameters == reference.total_params
    assert ours.trainable_parameters == reference.trainable_params
    assert ours.parameter_bytes == reference.total_param_bytes
    assert ours.input_bytes == x.numel() * x.element_size()
    assert 2 * ours.multiply_adds == flops(model, x)
    rows = [row for row in reference.summary_list if row.class_name != "ModuleList"]
    found = [(row.type, list(row.output_shape), row.parameters) for row in ours.layers]
    assert found == [(row.class_name, row.output_size, row.num_params) for row in rows]
    outputs = sum(np.prod(row.output_size) for row in rows if row.is_leaf_layer)
    assert ours.output_bytes == outputs * x.element_size()


def test_shared_weights_count_once():
    one, other, head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
    other.weight = one.weight
    ours = summary(nn.Sequential(one, one, other, head), (4, 8), verbose=False)
    assert ours.total_parameters == 8 * 8 + 8 + 8 + 8 * 3 + 3
    assert ours.multiply_adds == 4 * (3 * 8 * 8 + 8 * 3)
    assert [row.parameters for row in ours.layers[1:]] == [72, 0, 8, 27]
    assert [row.shared for row in ours.layers[1:]] == [False, True, False, False]
    assert "(shared)" in str(ours)


def test_several_inputs_and_outputs():
    model, data = TwoInputs(), [torch.zeros(2, 3, 6, 7), torch.zeros(2, 5)]
    ours = summary(model, [(2, 3, 6, 7), [np.int64(2), 5]], verbose=False)
    assert ours.total_parameters == 3 * 4 * 3 * 3 + 4 + 5 * 4 + 4
    assert ours.layers[0].output_shape == ((2, 4, 6, 7), (2, 4, 1, 1))
    assert 2 * ours.multiply_adds == flops(model, *data)
    assert summary(model, input_data=data, verbose=False) == ours


def test_grouped_strided_and_transposed_convolutions():
    down = nn.Conv2d(4, 8, 3, stride=2, groups=2)
    model = nn.Sequential(down, nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, bias=False))
    for shape in [(3, 4, 21, 17), (4, 21, 17)]:
        found = summary(model, shape, verbose=False).multiply_adds
        assert 2 * found == flops(model, torch.zeros(shape))


def test_leaves_the_model_as_it_was():
    model, calls = UNet(base_width=8).train(), []
    model.first.eval()  # its owner has frozen this one
    model.register_forward_hook(lambda *_: calls.append(1))
    modes = [module.training for module in model.modules()]
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = summary(model, (1, 1, 32, 32), verbose=False)
    rows = len(found.layers)
    with pytest.raises(RuntimeError, match="channels"):
        summary(model, (1, 3, 32, 32))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    model(torch.zeros(2, 1, 32, 32))  # calls its owner's hook, none of the summary's
    assert len(found.layers) == rows and calls == [1, 1]


@pytest.mark.parametrize("whole", [False, True])
def test_sees_through_what_wraps_a_net(whole):
    torch.compiler.reset()  # else PyTorch gives up compiling after eight variants
    net, x = UNet(base_width=2).eval(), torch.randn(2, 1, 32, 32)
    net.first[5] = net.first[3]
    plain = summary(net, x.shape, verbose=False)
    compiled = functools.partial(torch.compile, backend="eager")
    if not whole:
        net.first[3] = net.first[5] = compiled(net.first[3])  # a wrapper in two places
        net.down[0] = compiled(nn.DataParallel(net.down[0]))
        net.down[1].compile(backend="eager")  # compiled in place
        net.up[0].forward = compiled(net.up[0].forward)
    model = compiled(net) if whole else nn.DataParallel(net)
    with torch.no_grad():
        model(x)  # as summary calls it, so that what this compiles would fit
    before = list(model.named_modules())
    assert summary(model, x.shape, verbose=False) == plain
    assert before == list(model.named_modules())


def test_prints_a_table(capsys):
    summary(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (2, 3, 4), depth=0)
    printed = capsys.readouterr().out
    assert "Sequential" in printed and "Linear" not in printed
    assert "65 (65 trainable)" in printed and "120" in printed


@pytest.mark.parametrize("size", [None, (1, 0), (), "ab", 5, (1.0, 2)])
def test_bad_sizes_are_named(size):
    with pytest.raises(ValueError, match="input_size"):
        summary(nn.Linear(2, 2), size)
