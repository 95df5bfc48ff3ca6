"""Reader of npz files with the arrays of a dataset."""

from __future__ import annotations

from pathlib import Path

from hwnas.data.arrays import ChannelAxis, raw_data_of
from hwnas.data.formats import RawData
from hwnas.data.targets import Kind
from hwnas.errors import InputError
from hwnas.inspection.arrays import open_npz, read_array

KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path, kind: Kind | None = None, channels: ChannelAxis | None = None) -> RawData:
    """Read an npz file with x_train, y_train, x_test, y_test and, optionally, classes.

    `hwnas.data.arrays.raw_data_of` describes the arrays. Pickled objects are never loaded.

    Args:
        path: the file.
        kind: what one sample is; found from the arrays if None.
        channels: where the axis of the channels is; found from the sizes if None.

    Raises:
        InputError: the file is not an npz file or holds pickled objects, an array is missing, or
            a shape, a type, a value or a target is invalid.
    """
    with open_npz(path) as archive:
        arrays = [read_array(archive, key, path) for key in KEYS]
        named = "classes.npy" in archive.namelist()
        names = read_array(archive, "classes", path) if named else None
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U" or not len(names)):
        raise InputError(
            "invalid class names",
            where=f"{path}: classes",
            expected="strings, shape (K,)",
            actual=f"shape {names.shape} {names.dtype}",
        )
    classes = None if names is None else [str(name) for name in names]
    x_train, y_train, x_test, y_test = arrays
    return raw_data_of(
        x_train,
        y_train,
        x_test,
        y_test,
        kind=kind,
        channels=channels,
        classes=classes,
        where=f"{path}: ",
    )
