"""npz files: anything but plain arrays is refused before it is read."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hwnas.errors import InputError
from hwnas.inspection.__main__ import describe_npz
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.inspection.process import inspect_npz


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def zipped(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_dot_", "."), content)
    return path


def bomb(path):
    """128 MiB of zeros, compressed to less than 1 MiB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy_header((2**25,)))
        for _ in range(2**7):
            member.write(bytes(2**20))
    return path


def objects(path):
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    return path


def named_pipe(path):
    os.mkfifo(path)
    return path


def written(content: bytes):
    def write(path):
        path.write_bytes(content)
        return path

    return write


HOSTILE = {
    "bomb": (bomb, "decompression bomb"),
    "gzip bomb": (written(gzip.compress(bytes(2**26), 1)), "not an npz file"),
    "objects": (objects, "pickled objects"),
    "pickle": (written(pickle.dumps({"x": 1})), "not an npz file"),
    "empty": (written(b""), "not an npz file"),
    "missing": (lambda path: path, "no such file"),
    "pipe": (named_pipe, "not a regular file"),
    "no arrays": (lambda path: zipped(path), "1 to 1000 arrays"),
    "text": (lambda path: zipped(path, readme_dot_txt=b"hello"), "not an array"),
    "terabyte": (lambda path: zipped(path, x_dot_npy=npy_header((2**40,))), "wrong size"),
    "no bytes": (
        lambda path: zipped(path, x_dot_npy=npy_header((2**40,), "<U0")),
        "zero size",
    ),
    "negative": (lambda path: zipped(path, x_dot_npy=npy_header((-2,))), "wrong size"),
    "cut header": (lambda path: zipped(path, x_dot_npy=npy_header((1,))[:20]), "damaged"),
    "no header": (lambda path: zipped(path, x_dot_npy=b"abc"), "damaged"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_npz_file_is_refused(name, tmp_path) -> None:
    write, message = HOSTILE[name]
    path = write(tmp_path / "data.npz")
    with pytest.raises(InputError, match=message) as refusal:
        describe_npz(path)
    assert "data.npz" in str(refusal.value)


def test_the_subprocess_refuses_a_decompression_bomb(tmp_path) -> None:
    with pytest.raises(InputError, match="decompression bomb"):
        inspect_npz(bomb(tmp_path / "data.npz"))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), arrays.arrays(np.float32, (2, 3)), min_size=1))
def test_plain_arrays_are_described_and_read(tmp_path_factory, stored) -> None:
    path = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez_compressed(path, **stored)
    assert describe_npz(path)["arrays"] == dict.fromkeys(stored, "float32 [2, 3]")
    for name, array in read_npz_arrays(path).items():
        np.testing.assert_array_equal(array, stored[name])
