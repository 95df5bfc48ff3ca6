"""Decides the sizes that a model leaves open: which one is the batch, and what the others are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwnas.checking.inputs.input_sizes import DTYPES, InputSizes
from hwnas.errors import InputError
from hwnas.inspection.process import Inspection, Value

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each input, by name."""


@dataclass(frozen=True)
class StatedSizes:
    """What a user states about open sizes.

    Attributes:
        shapes: shapes of inputs, by name.
        symbols: sizes of dimensions, by the name that the model gives them. Such a size is the
            same in all inputs, and no batch.
        has_batch: whether an open first dimension may be the batch.
    """

    shapes: Shapes = field(default_factory=dict)
    symbols: Mapping[str, int] = field(default_factory=dict)
    has_batch: bool = True


@dataclass(frozen=True)
class OpenSize:
    """An open size that nothing states: a dimension of an input, and its symbol if it has one."""

    value: Value
    axis: int
    symbol: str | None


class UnknownSizesError(InputError):
    """The model leaves sizes open that nothing states.

    Attributes:
        sizes: each of them once.
    """

    def __init__(self, sizes: Sequence[OpenSize], where: str, mend: str = "") -> None:
        """Compose the line; `mend` is the line's end, by default one with example sizes."""
        self.sizes = tuple(sizes)
        first = self.sizes[0]
        super().__init__(
            "the model leaves a size open",
            where=f"{where}: input {first.value.name!r}",
            actual=first.symbol or f"dimension {first.axis}",
            mend=mend or f"state it with {options_for(sizes, 1)}, or give samples with --data",
        )


def options_for(sizes: Sequence[OpenSize], number: int) -> str:
    """Options of the command line that state a number for all sizes that are open."""
    options = []
    for size in sizes:
        if size.symbol is not None:
            options.append(f"--size {size.symbol}={number}")
        else:
            shape = size.value.shape or ()
            numbers = [str(s if isinstance(s, int) else number) for s in shape]
            options.append(f"--input {size.value.name}:{'x'.join(numbers)}")
    return " ".join(dict.fromkeys(options))


def parse_shapes(options: Sequence[str]) -> list[dict[str, tuple[int, ...]]]:
    """Parse the shapes of inputs, as given on the command line.

    Args:
        options: each `name:1x3x224x224` or `name:1,3,224,224`; a name may contain colons. An input
            that is named several times has several shapes.

    Returns:
        Shapes by input name, one set for each time that an input is named. An input that is named
        less often keeps its last shape.

    Raises:
        InputError: when an option has another form.
    """
    named: dict[str, list[tuple[int, ...]]] = {}
    for option in options:
        name, colon, text = option.rpartition(":")
        sizes = [size.strip() for size in text.replace("x", ",").split(",")]
        if not (colon and name and all(size.isascii() and size.isdigit() for size in sizes)):
            raise InputError(
                "not the shape of an input",
                where="--input",
                expected="NAME:1x3x224x224",
                actual=option,
            )
        named.setdefault(name, []).append(tuple(map(int, sizes)))
    count = max(map(len, named.values()), default=1)
    return [
        {n: shapes[min(i, len(shapes) - 1)] for n, shapes in named.items()} for i in range(count)
    ]


def parse_sizes(options: Sequence[str]) -> dict[str, int]:
    """Parse sizes by the names that a model gives them, such as `sequence=128`.

    Raises:
        InputError: when an option has another form, or a size is named twice.
    """
    sizes: dict[str, int] = {}
    for option in options:
        name, equals, text = option.rpartition("=")
        text = text.strip()
        if not (equals and name and text.isascii() and text.isdigit()):
            raise InputError("not a size", where="--size", expected="NAME=128", actual=option)
        if sizes.setdefault(name, int(text)) != int(text):
            raise InputError("a size is named twice", where="--size", actual=name)
    return sizes


def resolve_inputs(
    model: Inspection, stated: StatedSizes, arrays: Mapping[str, np.ndarray]
) -> tuple[InputSizes, ...]:
    """Decide every size of a model's inputs.

    Sizes that the model declares are kept. An open first dimension is the batch, and so is every
    dimension with the same symbol, see `_batch_symbols`. Other open sizes are those stated by
    symbol, or those of a stated shape, or those of an array; a symbol has one size in all inputs.

    Args:
        model: the inspected model.
        stated: what the user states.
        arrays: sample values of inputs, by name. An array with one dimension more than its input
            has an inference in each row.

    Raises:
        UnknownSizesError: when nothing states a size.
        InputError: when a size contradicts another one, or an element type is not supported.
    """
    where = str(model.path)
    symbols = {s for v in model.inputs for s in v.shape or () if isinstance(s, str)}
    for name in stated.symbols:
        if name not in symbols:
            raise InputError(
                "the model has no size of that name",
                where="--size",
                expected=sorted(symbols) or "no --size: the model names no open size",
                actual=name,
            )
    batch = _batch_symbols(model, stated, arrays)
    known = dict(stated.symbols)
    shapes = {value.name: _known_shape(value, stated, arrays, where) for value in model.inputs}
    for value in model.inputs:
        _add_symbols(known, value, shapes[value.name], batch, f"{where}: input {value.name!r}")
    unknown: list[OpenSize] = []
    found = []
    rows = rows_by_sample(model)
    for value in model.inputs:
        sizes, missing = _sizes(value, shapes[value.name], batch, known)
        unknown += missing
        below = value.below
        if isinstance(below, str):
            below = 0 if below in batch else known.get(below)
        row = rows.get(value.shape[0]) if value.shape and sizes[0] is None else None
        found.append(InputSizes(value.name, DTYPES[value.dtype], sizes, below, row))
    if unknown:
        raise UnknownSizesError(unknown, where)
    return tuple(found)


def rows_by_sample(model: Inspection) -> dict[int | str | None, str]:
    """Symbols of rows that belong to samples, and the input that tells to which.

    Such an input is the only index into the batch of another one, as that of regions in images is.
    """
    leading = {value.shape[0] for value in model.inputs if value.shape}
    indices = [
        (value.shape[0], value.name)
        for value in model.inputs
        if value.shape is not None
        and len(value.shape) == 1
        and isinstance(value.below, str)
        and value.below in leading
        and value.below != value.shape[0]
    ]
    times = Counter(symbol for symbol, _ in indices)
    return {symbol: name for symbol, name in indices if times[symbol] == 1}


def _batch_symbols(
    model: Inspection, stated: StatedSizes, arrays: Mapping[str, np.ndarray]
) -> set[str | None]:
    """Symbols of the batch; None stands for first dimensions without a symbol.

    An open first dimension is no batch if its size is stated by symbol. It is no batch either if
    its size is known and the model does not treat it as one: an input has the symbol twice, as a
    square matrix has, the edges of a graph are indices into it, or the declared shapes of the
    outputs do not depend on it.
    """
    if not stated.has_batch:
        return set()
    leading = {v.shape[0] for v in model.inputs if v.shape and not isinstance(v.shape[0], int)}
    leading -= set(stated.symbols)
    sized = {
        value.shape[0]
        for value in model.inputs
        if value.shape and (value.name in stated.shapes or value.name in arrays)
    }
    twice = {s for v in model.inputs for s in v.shape or () if (v.shape or ()).count(s) > 1}
    used = _output_sizes(model) | {value.below for value in model.inputs}
    unused = set() if _has_unknown_outputs(model) else leading - used
    rows = rows_by_sample(model)
    nodes = {v.below for v in model.inputs if v.shape and v.shape[0] not in rows}
    return leading - (sized & (twice - {None} | unused | (nodes - {None})))


def _has_unknown_outputs(model: Inspection) -> bool:
    """Whether an output has a size that is neither a number nor a symbol of an input."""
    known = {s for v in model.inputs for s in v.shape or () if s is not None}
    shapes = [value.shape for value in model.outputs]
    return not shapes or any(
        shape is None or any(not isinstance(s, int) and s not in known for s in shape)
        for shape in shapes
    )


def _output_sizes(model: Inspection) -> set[int | str | None]:
    return {size for value in model.outputs for size in value.shape or ()}


def _known_shape(
    value: Value, stated: StatedSizes, arrays: Mapping[str, np.ndarray], where: str
) -> tuple[int, ...] | None:
    """The shape of an input as it is stated, or else that of its array; None if unknown."""
    where = f"{where}: input {value.name!r}"
    if value.dtype not in DTYPES:
        raise InputError(
            "cannot generate values for the input",
            where=where,
            expected=f"a tensor of {', '.join(DTYPES)}",
            actual=value.dtype,
        )
    declared = value.shape
    if value.name in stated.shapes:
        shape = stated.shapes[value.name]
        if declared is not None:
            _require_dimensions(shape, declared, where)
            _require_declared(shape, declared, where)
        return shape
    if value.name not in arrays:
        return None
    shape = arrays[value.name].shape
    if declared is not None and len(shape) == len(declared) + 1:
        return shape[1:]
    if declared is not None:
        _require_dimensions(shape, declared, where)
    return shape


def _add_symbols(
    known: dict[str, int],
    value: Value,
    shape: tuple[int, ...] | None,
    batch: Collection[str | None],
    where: str,
) -> None:
    """Add the sizes of an input's symbols to those that are known.

    Raises:
        InputError: when a symbol already has another size.
    """
    for symbol, size in zip(value.shape or (), shape or (), strict=False):
        if (
            isinstance(symbol, str)
            and symbol not in batch
            and known.setdefault(symbol, size) != size
        ):
            raise InputError(
                "a size differs from that of the same name",
                where=where,
                expected=f"{symbol}={known[symbol]}",
                actual=shape,
            )


def _sizes(
    value: Value,
    shape: tuple[int, ...] | None,
    batch: Collection[str | None],
    known: Mapping[str, int],
) -> tuple[tuple[int | None, ...], list[OpenSize]]:
    """The sizes of an input with None at the batch, and those that nothing states."""
    if value.shape is None:
        # Any number of dimensions; the first one is not known to be a batch.
        return shape or (), [] if shape is not None else [OpenSize(value, 0, None)]
    sizes: list[int | None] = []
    missing = []
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            sizes.append(size)
        elif size in batch if size is not None else axis == 0 and None in batch:
            sizes.append(None)
        elif size is not None and size in known:
            sizes.append(known[size])
        elif shape is not None:
            sizes.append(shape[axis])
        else:
            missing.append(OpenSize(value, axis, size))
    return tuple(sizes), missing


def _require_dimensions(
    shape: tuple[int, ...], declared: tuple[int | str | None, ...], where: str
) -> None:
    if len(shape) != len(declared):
        raise InputError("wrong number of dimensions", where=where, expected=declared, actual=shape)


def _require_declared(
    stated: tuple[int, ...], declared: tuple[int | str | None, ...], where: str
) -> None:
    """Refuse a stated shape that contradicts a size which the model declares."""
    for own, size in zip(stated, declared, strict=True):
        if isinstance(size, int) and own != size:
            raise InputError(
                "the shape differs from the one that the model declares",
                where=where,
                expected=declared,
                actual=stated,
            )
