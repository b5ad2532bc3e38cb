"""What a model is made of: a table of its layers with shapes, parameters and multiply-adds."""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import nn


@dataclass
class Layer:
    """One row: a module, at one of its calls. Shapes include the batch."""

    name: str  # its path in the model, "" for the model itself
    type: str
    depth: int
    output_shape: tuple  # a tuple of such tuples where the module returns several tensors
    parameters: (
        int  # those of its whole subtree that no earlier row of the same depth or above has counted
    )
    multiply_adds: int  # of its whole subtree, in this call
    shared: bool  # True where all its parameters were counted before


@dataclass
class Summary:
    """What `summary` returns. Sizes in bytes, counts for the whole input batch."""

    layers: list[Layer] = field(default_factory=list)
    total_parameters: int = 0
    trainable_parameters: int = 0
    multiply_adds: int = 0
    input_bytes: int = 0
    parameter_bytes: int = 0
    output_bytes: int = (
        0  # of every innermost layer: about what a forward pass keeps for the backward pass
    )

    def table(self, depth: int | None = None) -> str:
        """The layers down to `depth` as text, then the totals."""
        rows = [("Layer", "Output shape", "Parameters", "Multiply-adds")]
        for layer in self.layers:
            if depth is not None and layer.depth > depth:
                continue
            label = "  " * layer.depth + layer.type + (f" ({layer.name})" if layer.name else "")
            parameters = (
                "(shared)" if layer.shared else f"{layer.parameters:,}" if layer.parameters else "-"
            )
            rows.append(
                (
                    label,
                    str(layer.output_shape),
                    parameters,
                    f"{layer.multiply_adds:,}" if layer.multiply_adds else "-",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in rows
        ]
        rule = "-" * len(lines[0])
        return "\n".join(
            [
                lines[0],
                rule,
                *lines[1:],
                rule,
                f"Parameters     {self.total_parameters:,} ({self.trainable_parameters:,} trainable)",
                f"Multiply-adds  {self.multiply_adds:,}",
                f"Memory         {_megabytes(self.input_bytes)} input, {_megabytes(self.parameter_bytes)} parameters, "
                f"{_megabytes(self.output_bytes)} layer outputs",
            ]
        )

    __str__ = table


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _shape(output):
    """The shape of a tensor; a tuple of shapes for a tuple, list or dict of tensors."""
    if isinstance(output, torch.Tensor):
        return tuple(output.shape)
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        shapes = [_shape(item) for item in output]
        return tuple(shape for shape in shapes if shape is not None)
    return None


def _bytes(output) -> int:
    if isinstance(output, torch.Tensor):
        return output.numel() * output.element_size()
    if isinstance(output, dict):
        output = list(output.values())
    return sum(_bytes(item) for item in output) if isinstance(output, (list, tuple)) else 0


def _multiply_adds(module: nn.Module, inputs: tuple, output) -> int:
    """Multiplications of one call of a convolution or linear layer. Biases add, so they do not count.

    A convolution uses every weight once per output position, a transposed one once per input position.
    """
    if not isinstance(module, (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)):
        return 0
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        x, dims = inputs[0], len(module.kernel_size)
        positions = prod(x.shape[-dims:]) * (x.shape[0] if x.dim() == dims + 2 else 1)
    elif isinstance(module, nn.modules.conv._ConvNd):
        positions = output.numel() // module.out_channels
    else:
        positions = output.numel() // module.out_features
    return module.weight.numel() * positions


def summary(
    model: nn.Module,
    input_size=None,
    *,
    input_data=None,
    dtype: torch.dtype | None = None,
    depth: int | None = None,
    verbose: bool = True,
) -> Summary:
    """Run `model` once on zeros and print a table of its layers; return the same as a `Summary`.

    The forward pass runs in eval mode and without gradients; the model's modes, device, hooks and
    running statistics are afterwards what they were before, and the input draws no random numbers. Parameters that several layers
    share are counted once. Multiply-adds count convolutions and linear layers, which do nearly all the work.

    Args:
        model: any module; its input is made on the device of its first parameter.
        input_size: shape of the input with the batch, such as (1, 1, 32, 32); a list of shapes for several inputs.
        input_data: the input itself instead of a shape: a tensor, or a list of the arguments of `forward`.
        dtype: of the input made from `input_size`; by default that of the first parameter.
        depth: how deep the printed table goes; None for all. Totals always count everything.
        verbose: print the table.

    Raises:
        ValueError: neither or both of `input_size` and `input_data`, or `input_size` is not a shape.
    """
    if (input_size is None) == (input_data is None):
        raise ValueError(
            "pass input_size=(batch, channels, height, width), or input_data, one of the two"
        )
    like = next(model.parameters(), torch.empty(0))
    if input_data is not None:
        inputs = list(input_data) if isinstance(input_data, (list, tuple)) else [input_data]
    else:
        if not isinstance(input_size, (tuple, list)):
            raise ValueError(f"input_size must be a shape or a list of shapes, not {input_size!r}")
        one = all(isinstance(size, int) for size in input_size)
        sizes = [tuple(input_size)] if one else [tuple(size) for size in input_size]
        if not all(size and all(isinstance(n, int) and n > 0 for n in size) for size in sizes):
            raise ValueError(f"input_size must hold positive whole numbers, not {input_size!r}")
        inputs = [torch.zeros(*size, dtype=dtype or like.dtype, device=like.device) for size in sizes]

    result = Summary(input_bytes=_bytes(inputs))
    names = {}  # a module that stands in two places keeps its first name
    for name, module in model.named_modules():
        names.setdefault(module, name)
    counted = set()  # parameters seen at earlier rows, children of the current row included
    stack = []  # the calls under way, outermost first

    def enter(module, _):
        row = Layer(names[module], type(module).__name__, len(stack), (), 0, 0, False)
        own = {p for p in module.parameters()}
        row.parameters = sum(p.numel() for p in own - counted)
        row.shared = bool(own) and row.parameters == 0
        result.layers.append(row)
        stack.append(row)

    def leave(module, args, output):
        row = stack.pop()
        row.output_shape = _shape(output)
        row.multiply_adds += _multiply_adds(module, args, output)
        if stack:
            stack[-1].multiply_adds += row.multiply_adds
        else:
            result.multiply_adds = row.multiply_adds
        counted.update(module.parameters(recurse=False))
        if next(module.children(), None) is None:
            result.output_bytes += _bytes(output)

    modes = {module: module.training for module in names}
    hooks = []
    try:
        for module in names:
            module.training = False
            hooks.append(module.register_forward_pre_hook(enter))
            hooks.append(module.register_forward_hook(leave))
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training

    for parameter in model.parameters():  # yields a shared parameter once
        result.total_parameters += parameter.numel()
        result.trainable_parameters += parameter.numel() * parameter.requires_grad
        result.parameter_bytes += parameter.numel() * parameter.element_size()
    if verbose:
        print(result.table(depth))
    return result
