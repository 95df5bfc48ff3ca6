"""Arrays of samples as a dataset: what the axes mean, and which task the targets ask for.

A kind says what one sample is, and thereby the axes of the array that holds all of them:

    image     (N, C, H, W), (N, H, W, C), or (N, H, W) for one grey channel
    signal    (N, C, L), or (N, L, C): C sensors at L times
    table     (N, F): F columns
    tokens    (N, L): indices into a vocabulary

Images keep uint8 and uint16, and tokens become int64; everything else becomes float32. Inside hwnas
every sample of numbers is a map: a signal is (C, 1, L), and a row of a table is (F, 1, 1). Samples
of several inputs keep their axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from hwnas.data.formats import (
    SEGMENTATION,
    RawData,
    check_counts,
    image_reading,
    require_finite,
)
from hwnas.data.inputs import by_position, in_order, joined
from hwnas.data.targets import LISTED, MOST_CLASSES, SEVERAL, Kind, targets_of
from hwnas.errors import InputError

ChannelAxis = Literal["first", "last"]
Kinds = Kind | Mapping[str, Kind] | Sequence[Kind]
"""What one sample is, or what each of several inputs is, by name or in their order."""
KIND = "input_kind"
"""Key of `RawData.reading` that states the kind of the samples."""
Arrays = np.ndarray | Mapping[str, np.ndarray]
"""An array of samples, or several inputs by name."""
FEW_CHANNELS = 4
"""Up to this size, an axis beside a larger one holds the channels of images."""
LAYOUTS: dict[Kind, str] = {
    "image": "(N, C, H, W), (N, H, W, C) or (N, H, W)",
    "signal": "(N, C, L) or (N, L, C)",
    "table": "(N, F)",
    "tokens": "(N, L) integers",
}


def raw_data_of(
    x_train: Arrays,
    y_train: np.ndarray,
    x_test: Arrays,
    y_test: np.ndarray,
    *,
    kind: Kinds | None = None,
    channels: ChannelAxis | None = None,
    classes: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
    where: str = "",
) -> RawData:
    """Turn the arrays of both splits into what readers return.

    Args:
        x_train: training inputs, see `inputs_of`; or several inputs by name.
        y_train: training targets: one class each as integers or texts (N,), values (N,) or (N, 1)
            as floats, a class for each pixel (N, H, W) or for each position (N, L) as integers
            with -1 where there is none, or boxes (N, B, 5) as floats (see `hwnas.data.dataset`).
        x_test: test inputs, of the same type and axes.
        y_test: test targets.
        kind: what one sample is; found from the arrays if None, see `kind_of`.
        channels: where the axis of the channels is; found from the sizes if None.
        classes: names of the classes, whose indices integer targets then are; required for
            boxes. Without it the classes are the different training targets, in order.
        vocabulary: the text of each token, if the inputs are tokens; their numbers if None.
        where: begins the place that errors name.

    Raises:
        InputError: arrays of another shape or type, unequal numbers of inputs and targets, no
            samples, values that are not finite, or targets of the test split alone.
    """
    if isinstance(x_train, Mapping) or isinstance(x_test, Mapping):
        inputs, notes = _several_inputs(x_train, x_test, kind, channels, where)
        task, names, targets = targets_of(SEVERAL, (y_train, y_test), classes, where)
        reading: dict[str, Any] = {}
        words: tuple[str, ...] = ()
    else:
        found = _one_kind(kind, x_train, f"{where}x_train")
        inputs = _of_both_parts((x_train, x_test), found, channels, where, "")
        task, names, targets = targets_of(found, (y_train, y_test), classes, where)
        reading = {KIND: found, **(image_reading(inputs[0]) if found == "image" else {})}
        words = _vocabulary(inputs, vocabulary, where) if found == "tokens" else ()
        notes = () if words else _constant_channels(inputs[0], f"{where}x_train")
    for x, y, name in zip(inputs, targets, ("train", "test"), strict=True):
        check_counts(x, y, f"{where}y_{name}")
        if task == SEGMENTATION and y.shape[1:] != x.shape[2:]:
            raise InputError(
                "the maps have another size than the images",
                where=f"{where}y_{name}",
                expected=f"(N, {x.shape[2]}, {x.shape[3]})",
                actual=y.shape,
            )
    return RawData(
        names,
        inputs[0],
        targets[0],
        inputs[1],
        targets[1],
        task,
        vocabulary=words,
        reading=reading,
        notes=notes,
    )


def _one_kind(kind: Kinds | None, inputs: np.ndarray, where: str) -> Kind:
    """The kind of the samples of one input."""
    if kind is None:
        return kind_of(inputs, where)
    if not isinstance(kind, str):
        raise InputError(
            "several kinds of one input", where="kind", expected=", ".join(get_args(Kind))
        )
    return kind


def _of_both_parts(
    arrays: tuple[np.ndarray, np.ndarray],
    kind: Kind,
    channels: ChannelAxis | None,
    where: str,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The samples of both parts, which have to be of the same type; see `inputs_of`."""
    train, test = arrays
    found = (
        inputs_of(train, kind, channels, f"{where}x_train{name}"),
        inputs_of(test, kind, channels, f"{where}x_test{name}"),
    )
    if train.dtype != test.dtype and not train.dtype.kind == test.dtype.kind == "f":
        # Such as images in 0..255 for training and in 0..1 for the test.
        raise InputError(
            "training and test inputs differ in type",
            where=f"{where}x_test{name}",
            expected=f"{train.dtype} as x_train",
            actual=test.dtype,
        )
    return found


def _several_inputs(
    x_train: Arrays,
    x_test: Arrays,
    kinds: Kinds | None,
    channels: ChannelAxis | None,
    where: str,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """Structured arrays of several inputs of both parts, and notes about them."""
    if not isinstance(x_train, Mapping) or not isinstance(x_test, Mapping) or len(x_train) < 2:
        raise InputError(
            "not several inputs",
            where=f"{where}inputs",
            expected="the same two or more arrays in the training and in the test part",
        )
    names = list(x_train)
    tests = in_order(x_test, names, f"{where}x_test")
    given = _kinds_of(kinds, names)
    parts: list[dict[str, np.ndarray]] = [{}, {}]
    notes: tuple[str, ...] = ()
    for name, train in x_train.items():
        kind = given.get(name) or kind_of(train, f"{where}x_train {name}")
        both = _of_both_parts((train, tests[name]), kind, channels, where, f" {name}")
        if kind != "tokens":
            notes += _constant_channels(both[0], f"{where}x_train {name}")
        for part, array in zip(parts, both, strict=True):
            part[name] = _with_own_axes(array, kind)
    for part, place in zip(parts, ("x_train", "x_test"), strict=True):
        counts = {name: len(array) for name, array in part.items()}
        if len(set(counts.values())) > 1:
            raise InputError(
                "the inputs have different numbers of samples",
                where=f"{where}{place}",
                actual=", ".join(f"{name}: {count}" for name, count in counts.items()),
            )
    return (joined(parts[0]), joined(parts[1])), notes


def _kinds_of(kinds: Kinds | None, names: Sequence[str]) -> Mapping[str, Kind]:
    """The kind of each of several inputs, where it is stated."""
    if kinds is None:
        return {}
    if isinstance(kinds, str):
        raise InputError(
            "one kind for several inputs",
            where="kind",
            expected=f"a kind for each of {', '.join(names)}",
            actual=kinds,
        )
    if isinstance(kinds, Mapping):
        unknown = [name for name in kinds if name not in names]
        if unknown:
            raise InputError(
                "no such input", where="kind", expected=", ".join(names), actual=unknown[0]
            )
        return kinds
    return in_order(by_position(kinds), names, "kind")


def _with_own_axes(maps: np.ndarray, kind: Kind) -> np.ndarray:
    """One of several inputs, with the axes that its kind has in the module docstring."""
    if kind == "signal":
        return maps[:, :, 0]
    return maps[:, :, 0, 0] if kind == "table" else maps


def _vocabulary(
    inputs: tuple[np.ndarray, np.ndarray], texts: Sequence[str] | None, where: str
) -> tuple[str, ...]:
    """The text of each token, by default its number."""
    if texts is not None:
        return tuple(map(str, texts))
    count = int(max(part.max() for part in inputs)) + 1
    return tuple(map(str, range(max(2, count))))


def kind_of(inputs: np.ndarray, where: str) -> Kind:
    """Return what the samples of an array are, from its dimensions and its type.

    Two dimensions are a table and four are images. Three are grey images if the type is uint8 or
    uint16, and signals otherwise.

    Raises:
        InputError: another number of dimensions.
    """
    if inputs.ndim == 2:
        return "table"
    if inputs.ndim == 3:
        return "image" if inputs.dtype in (np.uint8, np.uint16) else "signal"
    if inputs.ndim == 4:
        return "image"
    raise InputError(
        "inputs with an unsupported number of dimensions",
        where=where,
        expected="; ".join(f"{kind}: {layout}" for kind, layout in LAYOUTS.items()),
        actual=f"shape {inputs.shape}",
    )


def inputs_of(
    array: np.ndarray, kind: Kind, channels: ChannelAxis | None, where: str
) -> np.ndarray:
    """Return samples of a kind as maps (N, C, H, W), or tokens (N, L).

    The axis of an image's channels is the one of at most 4 beside a larger one; that of a signal
    is the shorter one. Sizes that do not tell have to be stated by `channels`.

    Args:
        array: the samples; the module docstring has the axes of each kind.
        kind: what one sample is.
        channels: where the axis of the channels is; found from the sizes if None.
        where: the array, for errors.

    Returns:
        uint8 or uint16 for images of that type, int64 for tokens, otherwise float32.

    Raises:
        InputError: no numbers, other axes, an axis of channels that the sizes do not tell, no
            samples, or values that are not finite in float32.
    """
    if kind not in get_args(Kind):
        raise InputError(
            "unknown kind", where="kind", expected=", ".join(get_args(Kind)), actual=kind
        )
    if array.dtype.kind not in "buif":
        raise InputError(
            "the inputs are not numbers",
            where=where,
            expected="integers or floats",
            actual=array.dtype,
            mend="encode texts as numbers, such as one column for each category",
        )
    if not array.size:
        raise InputError("no samples", where=where, expected="at least one", actual=array.shape)
    if kind == "tokens":
        return _tokens(array, where)
    maps = _as_maps(array, kind, channels, where)
    if kind == "image" and maps.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(maps)
    with np.errstate(over="ignore", invalid="ignore"):
        floats = np.ascontiguousarray(maps, dtype=np.float32)
    require_finite(floats, where)
    return floats


def _tokens(array: np.ndarray, where: str) -> np.ndarray:
    """Return indices into a vocabulary as int64."""
    whole = array.ndim == 2 and array.dtype.kind in "iu"
    if not whole or array.min() < 0 or array.max() >= MOST_CLASSES:
        raise InputError(
            "not tokens",
            where=where,
            expected=f"(N, L) integers from 0 to {MOST_CLASSES - 1:,}",
            actual=f"{array.dtype} {array.shape}"
            + (f", {array.min()} to {array.max()}" if whole else ""),
        )
    return array.astype(np.int64)


def _as_maps(array: np.ndarray, kind: Kind, channels: ChannelAxis | None, where: str) -> np.ndarray:
    """Return a view (N, C, H, W) of the samples."""
    shape = array.shape
    if kind == "table" and array.ndim == 2:
        return array[:, :, None, None]
    if kind == "image" and array.ndim == 3:
        return array[:, None]
    if kind == "signal" and array.ndim == 3:
        found = channels or _told(shape[1] < shape[2], shape[2] < shape[1])
        if found is not None:
            return (array if found == "first" else array.swapaxes(1, 2))[:, :, None]
    elif kind == "image" and array.ndim == 4:
        first, last = shape[1] <= FEW_CHANNELS, shape[3] <= FEW_CHANNELS
        found = channels or _told(first and not last, last and not first)
        if found is not None:
            return array if found == "first" else np.moveaxis(array, 3, 1)
    else:
        raise InputError(
            f"the inputs have other axes than those of kind {kind}",
            where=where,
            expected=LAYOUTS[kind],
            actual=f"shape {shape}",
        )
    raise InputError(
        "the sizes do not tell which axis holds the channels",
        where=where,
        expected=LAYOUTS[kind],
        actual=f"shape {shape}",
        mend='state channels = "first" or "last"',
    )


def _told(first: bool, last: bool) -> ChannelAxis | None:
    return "first" if first else "last" if last else None


def _constant_channels(inputs: np.ndarray, where: str) -> tuple[str, ...]:
    """Return a note if some channels of the training inputs (N, C, H, W) are constant."""
    is_constant = inputs.min(axis=(0, 2, 3)) == inputs.max(axis=(0, 2, 3))
    found = np.flatnonzero(is_constant).tolist()
    if not found:
        return ()
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    listed = ", ".join(map(str, found[:LISTED])) + more
    return (f"{where}: the same value in all samples in channel {listed}",)
