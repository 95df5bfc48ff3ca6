"""Arrays of samples as a dataset: what the axes mean, and which task the targets ask for.

A kind says what one sample is, and thereby the axes of the array that holds all of them:

    image     (N, C, H, W), (N, H, W, C), or (N, H, W) for one grey channel
    signal    (N, C, L), or (N, L, C): C sensors at L times
    table     (N, F): F columns

Images keep uint8 and uint16; everything else becomes float32. Inside hwnas every sample is a map:
a signal is (C, 1, L), and a row of a table is (F, 1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from hwnas.data.formats import (
    DETECTION,
    IMAGE_CLASSIFICATION,
    REGRESSION,
    SEGMENTATION,
    VOID,
    RawData,
    check_counts,
    check_labels,
    image_reading,
    require_finite,
)
from hwnas.errors import InputError, printable

Kind = Literal["image", "signal", "table"]
ChannelAxis = Literal["first", "last"]
CLASSIFICATION: dict[Kind, str] = {
    "image": IMAGE_CLASSIFICATION,
    "signal": "signal-classification",
    "table": "table-classification",
}
"""The task of samples of a kind that have one class each."""
KIND = "input_kind"
"""Key of `RawData.reading` that states the kind of the samples."""
FEW_CHANNELS = 4
"""Up to this size, an axis beside a larger one holds the channels of images."""
MOST_CLASSES = 100_000
LISTED = 10
"""Number of labels that a message names."""
LAYOUTS: dict[Kind, str] = {
    "image": "(N, C, H, W), (N, H, W, C) or (N, H, W)",
    "signal": "(N, C, L) or (N, L, C)",
    "table": "(N, F)",
}


def raw_data_of(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    kind: Kind | None = None,
    channels: ChannelAxis | None = None,
    classes: Sequence[str] | None = None,
    where: str = "",
) -> RawData:
    """Turn the arrays of both splits into what readers return.

    Args:
        x_train: training inputs; see `inputs_of`.
        y_train: training targets: one class each as integers or texts (N,), values (N,) or (N, 1)
            as floats, a class for each pixel (N, H, W) as integers with -1 for pixels without a
            class, or boxes (N, B, 5) as floats (see `hwnas.data.dataset`).
        x_test: test inputs, of the same type and axes.
        y_test: test targets.
        kind: what one sample is; found from the arrays if None, see `kind_of`.
        channels: where the axis of the channels is; found from the sizes if None.
        classes: names of the classes, whose indices integer targets then are; required for
            boxes. Without it the classes are the different training targets, in order.
        where: begins the place that errors name.

    Raises:
        InputError: arrays of another shape or type, unequal numbers of inputs and targets, no
            samples, values that are not finite, or targets of the test split alone.
    """
    kind = kind_of(x_train, f"{where}x_train") if kind is None else kind
    inputs = [
        inputs_of(array, kind, channels, f"{where}{name}")
        for array, name in ((x_train, "x_train"), (x_test, "x_test"))
    ]
    is_same = x_train.dtype == x_test.dtype or x_train.dtype.kind == x_test.dtype.kind == "f"
    if not is_same:
        # Such as images in 0..255 for training and in 0..1 for the test.
        raise InputError(
            "training and test inputs differ in type",
            where=f"{where}x_test",
            expected=f"{x_train.dtype} as x_train",
            actual=x_test.dtype,
        )
    task, names, targets = _targets_of(kind, (y_train, y_test), classes, where)
    for x, y, name in zip(inputs, targets, ("train", "test"), strict=True):
        check_counts(x, y, f"{where}y_{name}")
        if task == SEGMENTATION and y.shape[1:] != x.shape[2:]:
            raise InputError(
                "the maps have another size than the images",
                where=f"{where}y_{name}",
                expected=f"(N, {x.shape[2]}, {x.shape[3]})",
                actual=y.shape,
            )
    reading = {KIND: kind, **(image_reading(inputs[0]) if kind == "image" else {})}
    return RawData(
        names,
        inputs[0],
        targets[0],
        inputs[1],
        targets[1],
        task,
        reading=reading,
        notes=_constant_channels(inputs[0], where),
    )


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
    """Return samples of a kind as maps (N, C, H, W).

    The axis of an image's channels is the one of at most 4 beside a larger one; that of a signal
    is the shorter one. Sizes that do not tell have to be stated by `channels`.

    Args:
        array: the samples; the module docstring has the axes of each kind.
        kind: what one sample is.
        channels: where the axis of the channels is; found from the sizes if None.
        where: the array, for errors.

    Returns:
        uint8 or uint16 for images of that type, otherwise float32.

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
    maps = _as_maps(array, kind, channels, where)
    if kind == "image" and maps.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(maps)
    with np.errstate(over="ignore", invalid="ignore"):
        floats = np.ascontiguousarray(maps, dtype=np.float32)
    require_finite(floats, where)
    return floats


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
    return (f"{where}x_train: the same value in all samples in channel {listed}",)


# ---- targets ----


def _targets_of(
    kind: Kind,
    targets: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str] | None,
    where: str,
) -> tuple[str, tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Return the task, the classes (or the name of the value), and the targets of both splits."""
    places = f"{where}y_train", f"{where}y_test"
    train, test = (_readable(y, place) for y, place in zip(targets, places, strict=True))
    form = train.dtype.kind, train.ndim
    if (test.dtype.kind, test.ndim) != form:
        raise InputError(
            "training and test targets differ in type or dimensions",
            where=places[1],
            expected=f"{train.dtype} with {train.ndim} dimensions",
            actual=f"{test.dtype} with {test.ndim} dimensions",
        )
    names = _class_names(classes, where)
    if form in (("i", 1), ("U", 1)):
        found, encoded = _encoded(train, test, names, where)
        return CLASSIFICATION[kind], found, encoded
    if form == ("f", 1):
        values = _floats(train[:, None], places[0]), _floats(test[:, None], places[1])
        return REGRESSION, names or ("value",), values
    if form == ("i", 3) and kind == "image":
        names = names or tuple(map(str, range(int(train.max()) + 1)))
        for map_, place in ((train, places[0]), (test, places[1])):
            check_labels(np.append(map_[map_ != VOID], 0), len(names), place)
        return SEGMENTATION, names, (train.astype(np.int64), test.astype(np.int64))
    if form == ("f", 3) and train.shape[2] == test.shape[2] == 5 and kind == "image" and names:
        boxes = _floats(train, places[0]), _floats(test, places[1])
        return DETECTION, names, boxes
    raise InputError(
        f"unsupported targets of samples of kind {kind}",
        where=places[0],
        expected="(N,) integers or texts (classes), (N,) or (N, 1) floats (values)"
        + (
            ", (N, H, W) integers (a class for each pixel), or (N, B, 5) floats with the names of "
            "the classes (boxes)"
            if kind == "image"
            else ""
        ),
        actual=f"shape {train.shape} {train.dtype}",
        mend="take the largest of each row if these are one-hot vectors: y.argmax(axis=1)"
        if train.ndim == 2
        else "",
    )


def _readable(targets: np.ndarray, where: str) -> np.ndarray:
    """Return targets as int64, floats or texts; a last or second axis of size 1 is dropped."""
    if not targets.size:
        raise InputError("no samples", where=where, expected="at least one", actual=targets.shape)
    if targets.dtype == object and all(isinstance(value, str) for value in targets.ravel()):
        targets = targets.astype(np.str_)
    if targets.dtype.kind not in "biufU":
        raise InputError(
            "targets of an unsupported type",
            where=where,
            expected="integers, texts or floats",
            actual=targets.dtype,
        )
    if targets.dtype.kind in "bu" or targets.dtype == np.int8:
        targets = targets.astype(np.int64)
    if targets.ndim == 2 and targets.shape[1] == 1:
        return targets[:, 0]
    return targets[:, 0] if targets.ndim == 4 and targets.shape[1] == 1 else targets


def _class_names(classes: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the given names; empty if there are none."""
    if classes is None:
        return ()
    names = tuple(str(name) for name in classes)
    if not names or len(set(names)) < len(names) or len(names) > MOST_CLASSES:
        raise InputError(
            "invalid names of classes",
            where=f"{where}classes",
            expected=f"1 to {MOST_CLASSES:,} different names",
            actual=f"{len(names):,} names, {len(set(names)):,} of them different",
        )
    return names


def _encoded(
    train: np.ndarray, test: np.ndarray, names: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Return names of classes, and each target as the index of its class."""
    if names and train.dtype.kind == "i":
        places = ((train, f"{where}y_train"), (test, f"{where}y_test"))
        indices = [check_labels(labels, len(names), place) for labels, place in places]
        return names, (indices[0], indices[1])
    known = np.array(names) if names else np.unique(train)
    if len(known) > MOST_CLASSES:
        raise InputError(
            "too many classes",
            where=f"{where}y_train",
            expected=f"at most {MOST_CLASSES:,} different targets",
            actual=f"{len(known):,}",
            mend="for values to be predicted, convert the targets to floats",
        )
    order = np.argsort(known, kind="stable")
    encoded = []
    for labels, place in ((train, f"{where}y_train"), (test, f"{where}y_test")):
        unknown = np.setdiff1d(labels, known)
        if len(unknown):
            listed = ", ".join(printable(str(label), 40) for label in unknown[:LISTED])
            raise InputError(
                "targets of unknown classes",
                where=place,
                expected="the given classes" if names else "classes of the training targets",
                actual=listed + (f" and {len(unknown) - LISTED} more" * (len(unknown) > LISTED)),
            )
        encoded.append(order[np.searchsorted(known, labels, sorter=order)].astype(np.int64))
    return names or tuple(str(label) for label in known.tolist()), (encoded[0], encoded[1])


def _floats(values: Any, where: str) -> np.ndarray:
    """Return targets as float32, all of them finite."""
    with np.errstate(over="ignore"):
        found: np.ndarray = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(axis=1))
    if len(wrong):
        raise InputError(
            f"NaN or infinity in {len(wrong)} of {len(found)} targets",
            where=f"{where}: sample {int(wrong[0])}",
            expected="finite numbers of float32",
            mend="leave samples without a target out",
        )
    return found
