"""Networks as lists of integer operators.

The deployed network is traced to PyTorch's own modules. Views are free, batch norms are folded or
become depthwise 1x1 convolutions, a linear layer becomes a convolution whose kernel covers the map,
activations are computed where their input is written, and rows and columns of kernels that meet
nothing but padding are left out: a 3x3 kernel on a signal (C, 1, L) is a 1x3 kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hwnas.deploy.fold import fold_batch_norms
from hwnas.deploy.microcontroller.program import FUNCTIONS, Kind, Program, Shape, Step, Window
from hwnas.deploy.plain import plain_module
from hwnas.errors import InputError
from hwnas.ops.macro import LAYER_ACTIVATIONS

ACTIVATIONS: dict[type[nn.Module], str] = {
    **{type(build()): name for name, build in LAYER_ACTIVATIONS.items() if name != "none"},
    nn.Hardsigmoid: "hsigmoid",
}
"""Names of the elementwise functions that are computed, by their modules."""
BY_FUNCTION: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.hardswish: "hswish",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
VIEWS = ("flatten", "unsqueeze", "squeeze", "view", "reshape", "contiguous")
SUMS = (operator.add, operator.iadd, torch.add)
PRODUCTS = (operator.mul, operator.imul, torch.mul)


def lower(module: nn.Module, *shapes: tuple[int, ...]) -> Program:
    """The integer operators of a network, or of an operator with one input or several.

    Args:
        module: is not changed; its batch norms are folded.
        shapes: shape of each input without the batch dimension.

    Raises:
        InputError: for an operator that there is no integer form of.
    """
    traced = plain_module(fold_batch_norms(module))
    assert isinstance(traced, fx.GraphModule)
    lowering = _Lowering(traced)
    with torch.no_grad():
        lowering.run(*(torch.zeros(1, *shape) for shape in shapes))
    return lowering.program()


@dataclass(frozen=True)
class _Value:
    """A value while a network is lowered: what PyTorch computes, and where it is.

    Attributes:
        tensor: what PyTorch computes.
        number: of the value.
        cut: of a map that was padded with zeros at its ends and then cut, as DARTS' reductions do:
            the shape of what is in memory, and how many rows and columns are cut at the beginning.
    """

    tensor: Tensor
    number: int
    cut: tuple[Shape, tuple[int, int]] | None = None

    @property
    def shape(self) -> Shape:
        return as_map(self.tensor.shape[1:])


def as_map(shape: Sequence[int]) -> Shape:
    """Channels, height and width of a value with fewer dimensions: (C,), (C, L) or (C, H, W)."""
    if len(shape) > 3:
        raise InputError(
            "a value has too many dimensions for a microcontroller",
            expected="channels, height and width",
            actual=tuple(shape),
        )
    channels, *sides = shape
    height, width = [1] * (2 - len(sides)) + list(sides)
    return channels, height, width


class _Lowering(fx.Interpreter):
    """Runs a traced network once on zeros and records its operators."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # errors are one line
        self.steps: list[Step] = []
        self.sizes: dict[int, int] = {}
        self.input_shape: Shape | None = None
        self.result: int | None = None
        self.name = ""

    def run_node(self, n: fx.Node) -> Any:
        """Record the operators of one node."""
        self.name = str(n.target)
        return super().run_node(n)

    def program(self) -> Program:
        """What was recorded."""
        assert self.input_shape is not None and self.result is not None
        return _fused(Program(tuple(self.steps), self.sizes, self.result, self.input_shape))

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> _Value:
        """An input."""
        value = self._new(super().placeholder(target, args, kwargs))
        if self.input_shape is None:
            self.input_shape = value.shape
        return value

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The value that the network returns."""
        value = args[0]
        if not isinstance(value, _Value):
            raise self._unknown("several outputs")
        self.result = value.number
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A module of PyTorch."""
        module = self.fetch_attr(target)
        if isinstance(module, nn.Identity | nn.Dropout):
            return args[0]
        if isinstance(module, nn.Flatten):
            return self._view(args[0], module(args[0].tensor))
        value: _Value = args[0]
        if isinstance(module, nn.Conv2d):
            return self._conv(value, module)
        if isinstance(module, nn.Linear) and value.tensor.ndim == 2:
            return self._linear(value, module)
        if isinstance(module, nn.BatchNorm2d):
            return self._norm(value, module)
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d):
            return self._pool(value, module)
        name = ACTIVATIONS.get(type(module))
        if name is None:
            raise self._unknown(type(module).__name__)
        return self._emit("map", [value], module(value.tensor), activation=name)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A function of PyTorch or of Python."""
        given = [one for one in args if isinstance(one, _Value)]
        if not given and target is not torch.cat:
            return super().call_function(target, args, kwargs)
        if target is getattr and args[1] == "shape":
            return given[0].tensor.shape
        if target in (F.pad, operator.getitem):
            return self._cut(given[0], target, args[1:], kwargs)
        if target is torch.conv2d:
            weight, bias, stride, padding, dilation, groups = args[1:]
            window = Window(weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation))
            tensor = torch.conv2d(given[0].tensor, *args[1:])
            return self._convolution(given[0], tensor, window, groups, weight, bias)
        if target is torch.cat:
            parts = list(args[0])
            if (args[1] if len(args) > 1 else kwargs.get("dim", 0)) != 1:
                raise self._unknown("a concatenation of other dimensions than channels")
            return self._emit("concat", parts, torch.cat([part.tensor for part in parts], 1))
        if target in SUMS and len(given) == 2 and given[0].shape == given[1].shape:
            return self._emit("add", given, given[0].tensor + given[1].tensor)
        if target in PRODUCTS and len(given) == 2:
            # The second factor may be one value for each channel.
            first, second = sorted(given, key=lambda one: -one.tensor.numel())
            if second.shape in (first.shape, (first.shape[0], 1, 1)):
                return self._emit("mul", [first, second], first.tensor * second.tensor)
        if target in BY_FUNCTION:
            tensor = FUNCTIONS[BY_FUNCTION[target]](given[0].tensor)
            return self._emit("map", given, tensor, activation=BY_FUNCTION[target])
        if target is torch.flatten:
            return self._view(given[0], torch.flatten(given[0].tensor, *args[1:], **kwargs))
        raise self._unknown(getattr(target, "__name__", str(target)))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A method of a tensor."""
        value = args[0]
        if isinstance(value, _Value) and target in VIEWS:
            return self._view(value, getattr(value.tensor, target)(*args[1:], **kwargs))
        if isinstance(value, _Value) and target in BY_FUNCTION:
            name = BY_FUNCTION[target]
            return self._emit("map", [value], FUNCTIONS[name](value.tensor), activation=name)
        raise self._unknown(str(target))

    def _unknown(self, what: str) -> InputError:
        return InputError(
            "the network has an operator without an integer form",
            where=self.name,
            expected="convolutions, linear layers, batch norms, pools, sums, products, "
            "concatenations and activations",
            actual=what,
            mend="choose a space of such operators, such as macro, mbconv, nasbench201 or darts",
        )

    def _new(self, tensor: Tensor) -> _Value:
        number = len(self.sizes)
        self.sizes[number] = tensor[0].numel()
        return _Value(tensor, number)

    def _view(self, value: _Value, tensor: Tensor) -> _Value:
        if len(tensor) != 1 or value.cut is not None:
            raise self._unknown("a view over samples or of a part of a map")
        return _Value(tensor, value.number)

    def _cut(self, value: _Value, target: Any, args: Any, kwargs: Any) -> _Value:
        """Zeros behind a map, and rows and columns cut at its beginning; nothing is computed."""
        begins = (0, 0)
        if target is F.pad:
            zeros = (kwargs.get("mode"), kwargs.get("value")) == ("constant", None)
            is_plain = zeros and len(args) == 1 and not any(args[0][::2])
        else:
            *whole, rows, columns = args[0]
            begins = rows.start or 0, columns.start or 0
            is_plain = whole == [slice(None)] * 2
            is_plain &= all(one.stop is None and one.step is None for one in (rows, columns))
        if not is_plain:
            raise self._unknown("a part of a map")
        shape, before = value.cut or (value.shape, (0, 0))
        total = before[0] + begins[0], before[1] + begins[1]
        return _Value(target(value.tensor, *args), value.number, (shape, total))

    def _emit(self, kind: Kind, inputs: Sequence[_Value], tensor: Tensor, **more: Any) -> _Value:
        if any(one.cut is not None for one in inputs):
            raise self._unknown("a part of a map")
        result = self._new(tensor)
        step = Step(
            kind,
            tuple(one.number for one in inputs),
            tuple(one.shape for one in inputs),
            result.number,
            result.shape,
            source=self.name,
            **more,
        )
        self.steps.append(step)
        return result

    def _conv(self, value: _Value, module: nn.Conv2d) -> _Value:
        if not isinstance(module.padding, tuple) or module.padding_mode != "zeros":
            raise self._unknown(f"a convolution padded by {module.padding_mode}")
        sizes = module.kernel_size, module.stride, module.padding, module.dilation
        window = Window(*map(_pair, sizes))
        weight, bias = module.weight, module.bias
        return self._convolution(value, module(value.tensor), window, module.groups, weight, bias)

    def _convolution(
        self,
        value: _Value,
        tensor: Tensor,
        window: Window,
        groups: int,
        weight: Tensor,
        bias: Tensor | None,
    ) -> _Value:
        """A convolution without the rows and columns of its kernel that meet only padding."""
        if value.cut is not None:
            shape, begins = value.cut
            if window.start != (0, 0):
                raise self._unknown("a padded convolution of a part of a map")
            value = _Value(torch.zeros(1, *shape), value.number)
            window = replace(window, start=(-begins[0], -begins[1]))
        rows, columns = (
            _met(window, axis, value.shape[1 + axis], tensor.shape[2 + axis]) for axis in (0, 1)
        )
        cropped = replace(
            window,
            size=(len(rows), len(columns)),
            start=(
                window.start[0] - rows.start * window.dilation[0],
                window.start[1] - columns.start * window.dilation[1],
            ),
        )
        met = weight.detach()[:, :, rows.start : rows.stop, columns.start : columns.stop]
        settings = {"window": cropped, "groups": groups, "weight": met}
        settings["bias"] = torch.zeros(len(met)) if bias is None else bias.detach()
        return self._emit("conv", [value], tensor, **settings)

    def _linear(self, value: _Value, module: nn.Linear) -> _Value:
        """A convolution whose kernel covers the map that the linear layer's input is a view of."""
        shape = next(
            (step.shape for step in self.steps if step.output == value.number), self.input_shape
        )
        assert shape is not None
        source = replace(value, tensor=value.tensor.reshape(1, *shape))
        bias = torch.zeros(module.out_features) if module.bias is None else module.bias.detach()
        weight = module.weight.detach().reshape(-1, *shape)
        window = Window((shape[1], shape[2]))
        return self._emit(
            "conv", [source], module(value.tensor), window=window, weight=weight, bias=bias
        )

    def _norm(self, value: _Value, module: nn.BatchNorm2d) -> _Value:
        """A depthwise 1x1 convolution."""
        assert module.running_mean is not None and module.running_var is not None
        scale = (module.running_var + module.eps).rsqrt()
        scale = scale if module.weight is None else scale * module.weight.detach()
        shift = -module.running_mean * scale
        shift = shift if module.bias is None else shift + module.bias.detach()
        settings = {"window": Window((1, 1)), "groups": len(scale), "bias": shift}
        weight = scale.reshape(-1, 1, 1, 1)
        return self._emit("conv", [value], module(value.tensor), weight=weight, **settings)

    def _pool(
        self, value: _Value, module: nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d
    ) -> _Value:
        tensor = module(value.tensor)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            if tensor.shape[2:] != (1, 1):
                raise self._unknown("an adaptive pool to more than one value")
            return self._emit("avg_pool", [value], tensor, window=Window(value.shape[1:]))
        pads = _pair(module.padding)
        if isinstance(module, nn.AvgPool2d) and module.count_include_pad and any(pads):
            raise self._unknown("an average pool that counts its padding")
        if isinstance(module, nn.MaxPool2d) and _pair(module.dilation) != (1, 1):
            raise self._unknown("a dilated pool")
        window = Window(_pair(module.kernel_size), _pair(module.stride), pads)
        kind: Kind = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
        return self._emit(kind, [value], tensor, window=window)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _met(window: Window, axis: int, side: int, outputs: int) -> range:
    """The taps of a kernel along one axis that meet an input, from the first to the last."""
    first = -window.start[axis]
    last = first + (outputs - 1) * window.stride[axis]
    met = [
        tap
        for tap in range(window.size[axis])
        if any(
            0 <= place + tap * window.dilation[axis] < side
            for place in range(first, last + 1, window.stride[axis])
        )
    ]
    return range(met[0], met[-1] + 1) if met else range(1)


def _fused(program: Program) -> Program:
    """Activations become a part of the operator that alone writes what they read."""
    readers: dict[int, int] = {program.output: 1}
    for step in program.steps:
        for value in step.inputs:
            readers[value] = readers.get(value, 0) + 1
    steps: list[Step] = []
    writer: dict[int, int] = {}
    for step in program.steps:
        (source, *_) = step.inputs
        at = writer.get(source)
        if step.kind == "map" and at is not None and readers[source] == 1:
            if not steps[at].activation and steps[at].kind not in ("max_pool", "avg_pool"):
                steps[at] = replace(
                    steps[at], activation=step.activation, output=step.output, shape=step.shape
                )
                writer[step.output] = at
                continue
        writer[step.output] = len(steps)
        steps.append(step)
    return replace(program, steps=tuple(steps))
