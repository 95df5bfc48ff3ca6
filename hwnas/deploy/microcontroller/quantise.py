"""Int8 numbers for the values and weights of a program.

A value's real numbers are `scale * (q - zero)` with int8 `q`; a weight's are `scale * q` with one
scale for each output channel and `|q| <= 127`; biases are int32 at the scale of the accumulator
(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018; the scheme is that of LiteRT's int8 specification). The range of a value is
that of calibration samples, and values that a pool or a concatenation copies from one to the other
have one range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.deploy.microcontroller.program import FUNCTIONS, Program, Step

LOW, HIGH = -128, 127
CLAMPS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
"""Activations that are limits of an output's range, and need no table."""
FRACTION = 24
"""Bits behind the point of the factors of sums and products."""


@dataclass(frozen=True)
class Scale:
    """How int8 numbers stand for real ones: `scale * (q - zero)`."""

    scale: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Scale:
        """The scale of a range, which is widened to contain 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(np.float32(max(high - low, 1e-6) / (HIGH - LOW)))
        return cls(scale, int(np.clip(round(LOW - low / scale), LOW, HIGH)))

    def quantised(self, values: np.ndarray) -> np.ndarray:
        """Int8 numbers of real ones."""
        found: np.ndarray = np.clip(np.round(values / self.scale) + self.zero, LOW, HIGH)
        return found.astype(np.int8)

    def real(self, values: np.ndarray) -> np.ndarray:
        """Real numbers of int8 ones."""
        found: np.ndarray = self.scale * (values.astype(np.float32) - self.zero)
        return found


@dataclass(frozen=True)
class Weights:
    """The integers of a convolution.

    Attributes:
        weight: (c_out, c_in / groups, height, width) int8.
        scales: (c_out,) of the weights.
        bias: (c_out,) int32.
        multipliers: (c_out,) int32, and
        shifts: (c_out,) int8: an accumulator times `multiplier / 2^shift` is the output.
    """

    weight: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    shifts: np.ndarray


@dataclass(frozen=True)
class QuantisedProgram:
    """A program with its integers.

    Attributes:
        program: the operators.
        scales: of each value.
        weights: of each convolution, by the number of the value that it writes.
        written: the scale of what a step computes before a table of its activation, by the number
            of the value that it writes; only of steps with such a table.
    """

    program: Program
    scales: dict[int, Scale]
    weights: dict[int, Weights]
    written: dict[int, Scale]

    @property
    def input(self) -> Scale:
        """Of the network's input."""
        return self.scales[self.program.steps[0].inputs[0] if self.program.steps else 0]

    @property
    def result(self) -> Scale:
        """Of the network's output."""
        return self.scales[self.program.output]

    def table(self, step: Step) -> np.ndarray | None:
        """(256,) int8, the activation of each int8 number from -128 on; None without a table."""
        before = self.written.get(step.output)
        if before is None:
            return None
        real = torch.from_numpy(before.real(np.arange(LOW, HIGH + 1)))
        return self.scales[step.output].quantised(FUNCTIONS[step.activation](real).numpy())

    def limits(self, step: Step) -> tuple[int, int]:
        """The smallest and the largest int8 number that a step writes."""
        scale = self.scales[step.output]
        low, high = CLAMPS.get(step.activation, (-math.inf, math.inf))
        lowest = LOW if low == -math.inf else max(LOW, round(low / scale.scale) + scale.zero)
        highest = HIGH if high == math.inf else min(HIGH, round(high / scale.scale) + scale.zero)
        return lowest, highest


def quantise(program: Program, samples: np.ndarray) -> QuantisedProgram:
    """Find the integers of a program by running it on samples in floating point.

    Args:
        program: the operators, with their weights.
        samples: (samples, C, H, W) normalised inputs.
    """
    ranges, inner = value_ranges(program, samples)
    scales = {value: Scale.of_range(*ends) for value, ends in _shared(program, ranges).items()}
    written = {value: Scale.of_range(*ends) for value, ends in inner.items()}
    written |= {step.output: scales[step.inputs[0]] for step in program.steps if step.kind == "map"}
    weights = {
        step.output: _weights(
            step, scales[step.inputs[0]], written.get(step.output, scales[step.output])
        )
        for step in program.steps
        if step.kind == "conv"
    }
    return QuantisedProgram(program, scales, weights, written)


def _weights(step: Step, given: Scale, written: Scale) -> Weights:
    assert step.weight is not None and step.bias is not None
    weight = step.weight.double().numpy()
    largest = np.abs(weight).max(axis=(1, 2, 3))
    scales = np.maximum(largest, 1e-12) / HIGH
    # A weight so small beside the bias that the bias would not fit into 32 bits.
    bias = step.bias.double().numpy()
    scales = np.maximum(scales, np.abs(bias) / given.scale / 2**30).astype(np.float32)
    integers = np.clip(np.round(weight / scales[:, None, None, None]), -HIGH, HIGH)
    of_accumulator = given.scale * scales.astype(np.float64)
    multipliers, shifts = zip(*map(fixed_point, of_accumulator / written.scale), strict=True)
    return Weights(
        integers.astype(np.int8),
        scales,
        np.round(bias / of_accumulator).astype(np.int32),
        np.array(multipliers, dtype=np.int32),
        np.array(shifts, dtype=np.int8),
    )


def fixed_point(factor: float) -> tuple[int, int]:
    """An int32 multiplier and a shift with factor = multiplier / 2^shift, to 31 bits."""
    mantissa, exponent = math.frexp(factor)
    multiplier, shift = round(mantissa * 2**31), 31 - exponent
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift - 1
    # The sums of 32 x 32 bits that C shifts have 64 bits; a factor this small gives 0.
    return (multiplier, shift) if shift <= 62 else (0, 31)


def value_ranges(
    program: Program, samples: np.ndarray
) -> tuple[dict[int, tuple[float, float]], dict[int, tuple[float, float]]]:
    """The extremes of every value, and of what is written before a table of an activation."""
    values = {program.steps[0].inputs[0] if program.steps else 0: torch.from_numpy(samples).float()}
    ranges = {value: _extremes(tensor) for value, tensor in values.items()}
    inner: dict[int, tuple[float, float]] = {}
    for step in program.steps:
        given = [
            values[value].reshape(len(samples), *shape)
            for value, shape in zip(step.inputs, step.shapes, strict=True)
        ]
        before = compute(step, given)
        after = FUNCTIONS[step.activation](before) if step.activation else before
        if step.activation and step.activation not in CLAMPS:
            inner[step.output] = _extremes(before)
        values[step.output] = after
        ranges[step.output] = _extremes(after)
    return ranges, inner


def _extremes(tensor: Tensor) -> tuple[float, float]:
    return float(tensor.min()), float(tensor.max())


def compute(step: Step, given: Sequence[Tensor]) -> Tensor:
    """What a step computes in floating point, without its activation.

    Args:
        step: the operator.
        given: its inputs, (N, C, H, W) each.
    """
    first = given[0]
    if step.kind == "conv":
        assert step.weight is not None and step.window is not None
        x = padded(first, step.window.start, past_the_end(step), 0.0)
        window = step.window
        return F.conv2d(x, step.weight, step.bias, window.stride, 0, window.dilation, step.groups)
    if step.kind in ("max_pool", "avg_pool"):
        return _pooled(step, first)
    if step.kind == "add":
        return given[0] + given[1]
    if step.kind == "mul":
        return given[0] * given[1]
    return torch.cat(list(given), dim=1) if step.kind == "concat" else first


def past_the_end(step: Step) -> tuple[int, int]:
    """Rows and columns behind the input that the last windows reach; negative if they do not."""
    window, (_, *sides), (_, *outputs) = step.window, step.shapes[0], step.shape
    assert window is not None
    ends = [
        (outputs[axis] - 1) * window.stride[axis]
        - window.start[axis]
        + (window.size[axis] - 1) * window.dilation[axis]
        + 1
        - sides[axis]
        for axis in (0, 1)
    ]
    return ends[0], ends[1]


def padded(x: Tensor, starts: tuple[int, int], ends: tuple[int, int], value: float) -> Tensor:
    """A map with rows and columns of a value before it and behind it; negative numbers cut it."""
    return F.pad(x, (starts[1], ends[1], starts[0], ends[0]), value=value)


def _pooled(step: Step, x: Tensor) -> Tensor:
    """A pool over the inputs that a window meets."""
    assert step.window is not None
    starts, ends = step.window.start, past_the_end(step)
    size, stride = step.window.size, step.window.stride
    if step.kind == "max_pool":
        return F.max_pool2d(padded(x, starts, ends, -math.inf), size, stride)
    total = F.avg_pool2d(padded(x, starts, ends, 0.0), size, stride)
    met = F.avg_pool2d(padded(torch.ones_like(x[:1]), starts, ends, 0.0), size, stride)
    return total / met


def _shared(
    program: Program, ranges: dict[int, tuple[float, float]]
) -> dict[int, tuple[float, float]]:
    """Ranges in which pools and concatenations leave numbers as they are."""
    group = {value: value for value in ranges}

    def root(value: int) -> int:
        while group[value] != value:
            value = group[value]
        return value

    for step in program.steps:
        if step.kind in ("max_pool", "avg_pool", "concat"):
            for value in step.inputs:
                group[root(value)] = root(step.output)
    together: dict[int, tuple[float, float]] = {}
    for value, (low, high) in ranges.items():
        least, most = together.get(root(value), (low, high))
        together[root(value)] = min(least, low), max(most, high)
    return {value: together[root(value)] for value in ranges}
