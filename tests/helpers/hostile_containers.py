"""Files that are not ONNX models, or only a part of one."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
from helpers.hostile_cases import HostileCases
from helpers.unchecked_models import (
    model_of,
    node,
    valid_bytes,
    with_weights,
)
from onnx import ModelProto

CASES = HostileCases()
refused = CASES.refused


@refused("no such file")
def missing(folder):
    return folder / "missing.onnx"


@refused("not an ONNX model", "0 bytes")
def empty(folder):
    return b""


@refused("not an ONNX model")
def random_bytes(folder):
    return np.random.default_rng(0).bytes(5000)


@refused("not an ONNX model")
def text(folder):
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"


@refused("not a regular file", "a folder")
def directory(folder):
    return folder


@refused("not a regular file", "pipe")
def fifo(folder):
    os.mkfifo(folder / "pipe.onnx")
    return folder / "pipe.onnx"


@refused("not a regular file", "device")
def device(folder):
    return Path("/dev/zero")


@refused("not a regular file", "device")
def link_to_a_device(folder):
    (folder / "link.onnx").symlink_to("/dev/zero")
    return folder / "link.onnx"


@refused("no such file")
def dangling_link(folder):
    (folder / "link.onnx").symlink_to("nowhere")
    return folder / "link.onnx"


@refused("cannot be read")
def circular_link(folder):
    (folder / "link.onnx").symlink_to("link.onnx")
    return folder / "link.onnx"


@refused("too large", "2 GiB")
def sparse_file_of_4_gib(folder):
    path = folder / "bad.onnx"
    with path.open("wb") as file:
        file.truncate(2**32)
    return path


@refused("not an ONNX model")
def sparse_file_of_1_gib(folder):
    path = folder / "bad.onnx"
    with path.open("wb") as file:
        file.truncate(2**30)
    return path


@refused("not an ONNX model")
def gzip_bomb(folder):
    return gzip.compress(bytes(2**26), 1)


@refused("not an ONNX model")
def zip_bomb(folder):
    path = folder / "bad.onnx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", bytes(2**26))
    return path


@refused("cut short")
def cut_after_a_tenth(folder):
    return valid_bytes()[: len(valid_bytes()) // 10]


@refused("cut short")
def last_byte_missing(folder):
    return valid_bytes()[:-1]


@refused("cut short")
def small_and_last_byte_missing(folder):
    return model_of().SerializeToString()[:-1]


@refused("not an ONNX model", "bytes announced")
def length_of_an_exabyte(folder):
    return b"\x08\x0a\x3a" + b"\xff" * 8 + b"\x0f" + bytes(2000)


@refused("not an ONNX model")
def number_without_an_end(folder):
    return b"\x08" + b"\xff" * 4000


@refused("not an ONNX model, or an empty one")
def no_nodes(folder):
    return ModelProto(ir_version=8)


@refused("without outputs")
def no_outputs(folder):
    return model_of(outputs=())


@refused("without inputs")
def no_inputs(folder):
    return model_of(node("Add", "w w", "y"), stored=with_weights().graph.initializer, inputs=())
