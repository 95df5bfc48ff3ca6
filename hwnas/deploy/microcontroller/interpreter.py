"""Runs a quantised program on a batch of samples, number by number as its C program does."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from hwnas.deploy.microcontroller.c_source import factors
from hwnas.deploy.microcontroller.program import Step
from hwnas.deploy.microcontroller.quantise import (
    FRACTION,
    LOW,
    QuantisedProgram,
    compute,
    padded,
    past_the_end,
)


def outputs(quantised: QuantisedProgram, samples: np.ndarray) -> np.ndarray:
    """The network's outputs as real numbers, (samples, outputs).

    Args:
        quantised: the program.
        samples: (samples, C, H, W) normalised inputs.
    """
    program = quantised.program
    count = len(samples)
    values = {0: quantised.input.quantised(samples).astype(np.int64)}
    for step in program.steps:
        given = [
            values[value].reshape(count, *shape)
            for value, shape in zip(step.inputs, step.shapes, strict=True)
        ]
        values[step.output] = _run(step, given, quantised)
    return quantised.result.real(values[program.output].reshape(count, -1))


def _run(step: Step, given: list[np.ndarray], quantised: QuantisedProgram) -> np.ndarray:
    """The int8 numbers that a step writes, as int64."""
    table = quantised.table(step)
    if step.kind == "map":
        assert table is not None
        return _looked_up(table, given[0])
    if step.kind == "concat":
        return np.concatenate(given, axis=1)
    if step.kind in ("max_pool", "avg_pool"):
        return _limited(_pool(step, given[0]), *quantised.limits(step))
    scales = [quantised.scales[value] for value in step.inputs]
    written = quantised.written.get(step.output, quantised.scales[step.output])
    centred = [numbers - one.zero for numbers, one in zip(given, scales, strict=True)]
    if step.kind == "conv":
        scaled = _convolution(step, centred[0], quantised)
    else:
        rates = factors(step.kind, scales, written).astype(np.int64)
        first, second = centred
        sums = first * rates[0] + second * rates[1] if step.kind == "add" else None
        total = first * second * rates[0] if sums is None else sums
        scaled = (total + (1 << (FRACTION - 1))) >> FRACTION
    low, high = (LOW, -LOW - 1) if table is not None else quantised.limits(step)
    found = _limited(scaled + written.zero, low, high)
    return found if table is None else _looked_up(table, found)


def _looked_up(table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The entries of a table of 256 activations."""
    found: np.ndarray = table[numbers - LOW].astype(np.int64)
    return found


def _limited(numbers: np.ndarray, low: int, high: int) -> np.ndarray:
    """Numbers between two limits."""
    found: np.ndarray = np.clip(numbers, low, high)
    return found


def _convolution(step: Step, centred: np.ndarray, quantised: QuantisedProgram) -> np.ndarray:
    """Accumulators of a convolution times their multipliers; float64 holds them exactly."""
    weights, window = quantised.weights[step.output], step.window
    assert window is not None
    x = padded(torch.from_numpy(centred).double(), window.start, past_the_end(step), 0.0)
    weight, bias = (torch.from_numpy(w.astype(np.float64)) for w in (weights.weight, weights.bias))
    sums = F.conv2d(x, weight, bias, window.stride, 0, window.dilation, step.groups)
    multipliers = weights.multipliers.astype(np.int64)[:, None, None]
    shifts = weights.shifts.astype(np.int64)[:, None, None]
    products = sums.numpy().round().astype(np.int64) * multipliers
    found: np.ndarray = (products + (np.int64(1) << (shifts - 1))) >> shifts
    return found


def _pool(step: Step, numbers: np.ndarray) -> np.ndarray:
    """The largest number of each window, or the mean, half away from zero."""
    exact = compute(step, [torch.from_numpy(numbers).double()]).numpy()
    if step.kind == "max_pool":
        return exact.astype(np.int64)
    # A mean of at most 2^20 numbers of 8 bits is farther than this from a half, or is one.
    found: np.ndarray = np.trunc(exact + np.copysign(0.5 + 1e-9, exact)).astype(np.int64)
    return found
