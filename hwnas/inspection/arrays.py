"""Reads npz files as untrusted input: no pickles, and every size is checked before it is used."""

from __future__ import annotations

import lzma
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hwnas.errors import InputError

MAX_ARRAYS = 1000
MAX_TOTAL_BYTES = 2**31
"""Limit on the size of all arrays of a file together."""

# Exceptions that the standard library and numpy raise on damaged or hostile containers.
BROKEN_FILE = (
    EOFError,
    IndexError,
    OSError,
    RuntimeError,  # encrypted zip members, unknown compression, endless chains of tar headers
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def check_inflation(stored: int, claimed: int, where: str) -> None:
    """Refuse a compressed file that claims a much larger content than images compress to.

    Args:
        stored: compressed size in bytes.
        claimed: uncompressed size in bytes, as the container states it.
        where: the file, for errors.

    Raises:
        InputError: when the content is larger than 64 MiB and than 200 times the compressed size.
    """
    if claimed > 2**26 and claimed > 200 * stored:
        raise InputError(
            "looks like a decompression bomb",
            where=where,
            expected=f"at most 200 times its {stored} compressed bytes",
            actual=f"{claimed} bytes",
        )


@contextmanager
def open_npz(path: Path, file: BinaryIO | None = None) -> Iterator[zipfile.ZipFile]:
    """Open an npz file for `read_array`.

    Args:
        path: the file.
        file: the same file, if it is open already.

    Raises:
        InputError: when it is not an npz file, or reading it fails inside the `with` block.
    """
    if not zipfile.is_zipfile(file or path):
        raise InputError(
            "is not an npz file, or it is truncated",
            where=str(path),
            expected="a zip of arrays, as numpy.savez writes it",
            mend="pickles are never loaded: save the arrays with numpy.savez_compressed",
        )
    try:
        with zipfile.ZipFile(file or path) as archive:
            yield archive
    except BROKEN_FILE as error:
        raise InputError("damaged npz file", where=str(path), actual=error) from error


def npz_types(path: Path, file: BinaryIO) -> dict[str, str]:
    """Validate an open npz file by its headers, without reading the arrays.

    Returns:
        Type and shape of each array, by name.

    Raises:
        InputError: when it is not an npz file, contains pickled objects or members that are not
            arrays, or is too large.
    """
    with open_npz(path, file) as archive:
        members = archive.infolist()
        if not 0 < len(members) <= MAX_ARRAYS:
            expected = f"1 to {MAX_ARRAYS} arrays"
            raise InputError(
                "wrong number of arrays", where=str(path), expected=expected, actual=len(members)
            )
        total = sum(member.file_size for member in members)
        if total > MAX_TOTAL_BYTES:
            expected = f"at most {MAX_TOTAL_BYTES} bytes"
            raise InputError("too large", where=str(path), expected=expected, actual=total)
        found = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise InputError(
                    "contains a member that is not an array", where=str(path), actual=name
                )
            shape, dtype = _header(archive, name, path)
            found[name] = f"{dtype} {list(shape)}"
    if len(found) != len(members):
        raise InputError("an array is stored twice", where=str(path))
    return found


def read_npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file that `npz_types` has accepted."""
    with open_npz(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        return {name: read_array(archive, name, path) for name in names}


def read_array(archive: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
    """Read one array, after its header has been checked against the size of the member.

    Raises:
        InputError: when the array is missing, contains objects, or does not have the size that its
            header states.
    """
    _header(archive, key, path)
    with archive.open(f"{key}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _header(archive: zipfile.ZipFile, key: str, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array, checked against the size of its zip member."""
    where = f"{path}: {key}"
    if f"{key}.npy" not in archive.namelist():
        found = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:8])
        raise InputError("missing array", where=where, expected=key, actual=found or "no arrays")
    info = archive.getinfo(f"{key}.npy")
    check_inflation(info.compress_size, info.file_size, where)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        header_bytes = stream.tell()
    if dtype.hasobject:
        raise InputError(
            "holds pickled objects, which are never loaded",
            where=where,
            expected="an array of numbers or text",
            actual=f"dtype {dtype}",
            mend="convert it with numpy.asarray(..., dtype=...) and save it again",
        )
    if not dtype.itemsize:
        # Any number of such elements fits into zero bytes, so the size would check nothing.
        raise InputError("elements of zero size", where=where, actual=f"dtype {dtype}")
    size = header_bytes + math.prod(shape) * dtype.itemsize
    if size != info.file_size:
        expected, actual = f"{size} bytes according to its header", info.file_size
        raise InputError("wrong size", where=where, expected=expected, actual=actual)
    return shape, dtype
