"""What a model is made of: a table of its layers with shapes, parameters and multiply-adds."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import nn


@dataclass
class Layer:
    """One row: a module, at one of its calls. Shapes include the batch."""

    name: str  # its path in the model, "" for the model itself
    type: str
    depth: int
    output_shape: tuple  # a tuple of such tuples where the module returns several tensors
    parameters: int  # of its whole subtree, but for those that an earlier row of this depth or above has
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
    output_bytes: int = 0  # of every innermost layer: about what training keeps for the way back

    def table(self, depth: int | None = None) -> str:
        """The layers down to `depth` as text, then the totals."""
        rows = [("Layer", "Output shape", "Parameters", "Multiply-adds")]
        for row in self.layers:
            if depth is None or row.depth <= depth:
                label = "  " * row.depth + row.type + (f" ({row.name})" if row.name else "")
                own, work = (f"{n:,}" if n else "-" for n in (row.parameters, row.multiply_adds))
                rows.append((label, str(row.output_shape), "(shared)" if row.shared else own, work))
        wide = [max(map(len, column)) for column in zip(*rows)]
        head, *lines = [
            f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in rows
        ]
        lines += [
            "-" * len(head),
            f"Parameters     {self.total_parameters:,} ({self.trainable_parameters:,} trainable)",
            f"Multiply-adds  {self.multiply_adds:,}",
            f"Memory         {self.input_bytes / 1e6:,.1f} MB input, {self.parameter_bytes / 1e6:,.1f} MB "
            f"parameters, {self.output_bytes / 1e6:,.1f} MB layer outputs",
        ]
        return "\n".join([head, "-" * len(head), *lines])

    __str__ = table


def _tensors(output) -> list[torch.Tensor]:
    """The tensors in what a module returns: itself, or in lists, tuples and dicts."""
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in _tensors(item)]
    return [output] if isinstance(output, torch.Tensor) else []


def _bytes(output) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(output))


def _unwrapped(module: nn.Module) -> nn.Module:
    """What `torch.compile`, DataParallel or DistributedDataParallel was given."""
    parallel = isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    inner = module.module if parallel else getattr(module, "_orig_mod", None)
    return module if inner is None else _unwrapped(inner)


def _multiply_adds(module: nn.Module, inputs: tuple, output) -> int:
    """Multiplications of one call of a convolution or linear layer. Biases add, so they do not count.

    A convolution uses every weight once per output position, a transposed one once per input position.
    """
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return module.weight.numel() * (inputs[0].numel() // module.in_channels)
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.weight.numel() * (output.numel() // module.out_channels)
    if isinstance(module, (nn.Linear, nn.Bilinear)):
        return module.weight.numel() * (output.numel() // module.out_features)
    return 0


def summary(
    model: nn.Module, input_size=None, *, input_data=None, dtype=None, depth=None, verbose=True
) -> Summary:
    """Run `model` once on zeros and print a table of its layers; return the same as a `Summary`.

    It runs in eval mode, uncompiled and without gradients; the model's modes, device, hooks and running
    statistics are afterwards what they were before, and no random numbers are drawn. Parameters that several
    layers share are counted once. Multiply-adds count convolutions and linear layers, which do nearly all the
    work. Of a module that is wrapped (`torch.compile`, DataParallel), the table shows what is inside.

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
        raise ValueError("pass either input_size=(batch, channels, height, width) or input_data")
    like = next(model.parameters(), torch.empty(0))
    if input_data is not None:
        inputs = list(input_data) if isinstance(input_data, (list, tuple)) else [input_data]
    else:
        sizes = list(input_size) if isinstance(input_size, (tuple, list)) else []
        sizes = sizes if any(isinstance(size, (tuple, list)) for size in sizes) else [sizes]
        if not all(size and all(isinstance(n, Integral) and n > 0 for n in size) for size in sizes):
            raise ValueError(f"input_size must be a shape or a list of shapes, not {input_size!r}")
        inputs = [torch.zeros(*size, dtype=dtype or like.dtype, device=like.device) for size in sizes]

    result = Summary(input_bytes=_bytes(inputs))
    names = {}
    counted = set()  # parameters seen at earlier rows, children of the current row included
    stack = []  # the calls under way, outermost first

    def enter(module, _):
        row = Layer(names[module], type(module).__name__, len(stack), (), 0, 0, False)
        own = set(module.parameters())
        row.parameters = sum(p.numel() for p in own - counted)
        row.shared = bool(own) and row.parameters == 0
        result.layers.append(row)
        stack.append(row)

    def leave(module, args, output):
        row = stack.pop()
        shapes = tuple(tuple(tensor.shape) for tensor in _tensors(output))
        row.output_shape = shapes[0] if isinstance(output, torch.Tensor) else shapes
        row.multiply_adds += _multiply_adds(module, args, output)
        if stack:
            stack[-1].multiply_adds += row.multiply_adds
        counted.update(module.parameters(recurse=False))
        if next(module.children(), None) is None:
            result.output_bytes += _bytes(output)

    model = _unwrapped(model)
    with ExitStack() as undo:
        for parent in list(model.modules()):
            for name, child in parent._modules.items():
                if _unwrapped(child) is not child:
                    undo.callback(parent._modules.__setitem__, name, child)
                    parent._modules[name] = _unwrapped(child)
        for name, module in model.named_modules():  # one that stands in two places keeps its first name
            names[module] = name
            undo.callback(setattr, module, "training", module.training)
            module.training = False
            undo.callback(module.register_forward_pre_hook(enter).remove)
            undo.callback(module.register_forward_hook(leave).remove)
        if "torch._dynamo" in sys.modules:  # else nothing is compiled; compiled code calls no hooks
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        with torch.no_grad():
            model(*inputs)

    result.multiply_adds = result.layers[0].multiply_adds
    for parameter in model.parameters():  # yields a shared parameter once
        result.total_parameters += parameter.numel()
        result.trainable_parameters += parameter.numel() * parameter.requires_grad
        result.parameter_bytes += parameter.numel() * parameter.element_size()
    if verbose:
        print(result.table(depth))
    return result
