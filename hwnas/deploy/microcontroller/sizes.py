"""What networks take on a microcontroller: of one network, and of every option of a space."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from hwnas.budget.sizes import LayerSizes, Size
from hwnas.deploy.microcontroller.c_source import CODE_BYTES, flash_bytes, step_bytes
from hwnas.deploy.microcontroller.lowering import lower
from hwnas.deploy.microcontroller.memory import plan
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.layers import SKIP, LayerSpace


def network_size(network: nn.Module, input_shape: tuple[int, ...]) -> Size:
    """What a network takes.

    Args:
        network: is not changed.
        input_shape: of one sample, (C, H, W).

    Raises:
        InputError: when it has an operator without an integer form.
    """
    planned = plan(lower(network, input_shape))
    return Size(planned.bytes, flash_bytes(planned.program), planned.program.macs)


def layer_sizes(space: SearchSpace, where: str) -> LayerSizes:
    """What every option of a space of layers takes.

    Args:
        space: the search space.
        where: what asks for it, for errors.

    Raises:
        InputError: when the space is none of layers, or has operators without an integer form.
    """
    if not isinstance(space, LayerSpace):
        raise InputError(
            "exact limits of memory need a space of independent layers",
            where=where,
            expected="a space such as macro or mbconv",
            actual=space.name,
        )
    fixed = _total(space, space.fixed_operators())
    figures = np.zeros((len(space.choices), space.max_options, 3), dtype=np.int64)
    for row, choice in enumerate(space.choices):
        for column, option in enumerate(choice.options):
            if option != SKIP:
                found = _total(space, space.operators(row, column))
                figures[row, column] = found.ram_bytes, found.flash_bytes, found.macs
    with_code = Size(fixed.ram_bytes, fixed.flash_bytes + CODE_BYTES, fixed.macs)
    return LayerSizes(with_code, *np.moveaxis(figures, -1, 0))


def _total(space: LayerSpace, operators: Counter[OpSpec]) -> Size:
    """What operators take that run one after the other, without the code."""
    sizes = [(_operator_size(space, spec), count) for spec, count in operators.items()]
    return Size(
        max((size.ram_bytes for size, _ in sizes), default=0),
        sum(size.flash_bytes * count for size, count in sizes),
        sum(size.macs * count for size, count in sizes),
    )


@lru_cache(maxsize=4096)
def _operator_size(space: LayerSpace, spec: OpSpec) -> Size:
    """What one operator takes, without the code."""
    with torch.random.fork_rng(devices=[]):
        module, shapes, _ = space.operator_module(spec)
    program = lower(module, *shapes)
    if not program.steps:
        return Size(0, 0, 0)
    return Size(plan(program).bytes, sum(map(step_bytes, program.steps)), program.macs)
