"""Finds sizes at which a model runs, to propose them where it leaves sizes open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwnas.checking.inputs.feeds import feeds_for
from hwnas.checking.inputs.open_sizes import OpenSize, StatedSizes, UnknownSizesError, options_for
from hwnas.checking.trial import probe
from hwnas.config import CheckConfig
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.runtimes import OnnxModelRuntime

SEQUENCE_SIZES, IMAGE_SIZES = (16, 128, 1), (224, 64, 32)
"""Sizes that are tried, those of images first where an input has four dimensions."""


def with_proposal(
    error: InputError,
    model: Inspection,
    runtime: OnnxModelRuntime,
    stated: StatedSizes,
    limits: CheckConfig,
) -> InputError:
    """The error, with options for which the model runs.

    Args:
        error: says that a size is unknown, or that the model does not run with a batch of 1.
        model: the inspected model.
        runtime: runs the model in a process with limits.
        stated: what the user states already.
        limits: limits of that process.

    Returns:
        The error with another end: options with which the model runs. If it runs with none of the
        sizes that are tried, an error of random inputs says that they are random.
    """
    is_unknown = isinstance(error, UnknownSizesError)
    sizes = error.sizes if isinstance(error, UnknownSizesError) else _first_sizes(model, stated)
    is_image = any(len(size.value.shape or ()) >= 4 for size in sizes)
    numbers = IMAGE_SIZES + SEQUENCE_SIZES if is_image else SEQUENCE_SIZES + IMAGE_SIZES
    tried = (n for n in numbers if sizes and _runs(model, runtime, stated, limits, sizes, n))
    number = next(tried, None)
    if number is None and is_unknown:
        return error
    if number is None:
        return InputError(
            error.cause,
            where=error.where,
            mend="the inputs were random, and --data gives others",
            details=error.details,
        )
    options = options_for(sizes, number)
    if is_unknown:
        mend = f"it runs with {options}; --data gives samples"
        return UnknownSizesError(sizes, str(model.path), mend)
    return InputError(
        error.cause,
        where=error.where,
        mend=f"an open first size is taken for a batch of 1; the model runs with {options}",
        details=error.details,
    )


def _first_sizes(model: Inspection, stated: StatedSizes) -> list[OpenSize]:
    """Open first sizes that nothing states."""
    return [
        OpenSize(value, 0, value.shape[0])
        for value in model.inputs
        if value.shape
        and isinstance(value.shape[0], str)
        and value.name not in stated.shapes
        and value.shape[0] not in stated.symbols
    ]


def _runs(
    model: Inspection,
    runtime: OnnxModelRuntime,
    stated: StatedSizes,
    limits: CheckConfig,
    sizes: Sequence[OpenSize],
    number: int,
) -> bool:
    """Whether the model runs with a number in place of all unknown sizes."""
    symbols = dict(stated.symbols)
    shapes = dict(stated.shapes)
    for size in sizes:
        if size.symbol is not None:
            symbols[size.symbol] = number
        elif size.value.shape is not None:
            shape = (s if isinstance(s, int) else number for s in size.value.shape)
            shapes[size.value.name] = tuple(shape)
    try:
        feeds = feeds_for(model, replace(stated, shapes=shapes, symbols=symbols), None, 1)
        # Only the one size: other batches are not proposed.
        probe(model, runtime, feeds, limits)
    except InputError:
        return False
    return True
