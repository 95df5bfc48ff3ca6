"""Reader of CIFAR-10 and CIFAR-100 in their published binary form.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from hwnas.data.formats import RawData, check_labels
from hwnas.errors import InputError
from hwnas.inspection.arrays import BROKEN_FILE


@dataclass(frozen=True)
class CifarLayout:
    """Files of one of the published binary archives.

    Attributes:
        archive: file name of the archive.
        train_files: names of the files with training records.
        train_records: largest number of records in one training file.
        test_file: name of the file with test records.
        names_file: name of the text file with one class name per line.
        classes: number of classes.
        label_bytes: bytes before the image in each record; the last one is the label that is used.
        pickled_files: files that identify the Python version of the archive, which is not read.
    """

    archive: str
    train_files: tuple[str, ...]
    train_records: int
    test_file: str
    names_file: str
    classes: int
    label_bytes: int
    pickled_files: tuple[str, ...]

    @property
    def record_bytes(self) -> int:
        """Size of one record: the labels, then a 32x32 image as three colour planes."""
        return self.label_bytes + 3 * 32 * 32

    @property
    def size_limits(self) -> dict[str, int]:
        """The required files and the largest accepted size of each in bytes."""
        limits = dict.fromkeys(self.train_files, self.train_records * self.record_bytes)
        return limits | {self.test_file: 10_000 * self.record_bytes, self.names_file: 2**16}


CIFAR10 = CifarLayout(
    archive="cifar-10-binary.tar.gz",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    train_records=10_000,
    test_file="test_batch.bin",
    names_file="batches.meta.txt",
    classes=10,
    label_bytes=1,
    pickled_files=("data_batch_1", "test_batch", "batches.meta"),
)
CIFAR100 = CifarLayout(
    archive="cifar-100-binary.tar.gz",
    train_files=("train.bin",),
    train_records=50_000,
    test_file="test.bin",
    names_file="fine_label_names.txt",
    classes=100,
    label_bytes=2,  # the coarse label, then the fine label
    pickled_files=("train", "test", "meta"),
)


def read_cifar(path: Path, layout: CifarLayout) -> RawData:
    """Read CIFAR-10 or CIFAR-100 from the binary archive or from the extracted folder.

    Raises:
        InputError: the path holds the Python version (pickles), or files are missing, truncated
            or damaged.
    """
    files = _read_folder_files(path, layout) if path.is_dir() else _read_tar(path, layout)
    missing = [name for name in layout.size_limits if name not in files]
    if missing:
        raise InputError(
            "missing " + ", ".join(missing),
            where=str(path),
            expected=f"the files of {layout.archive}",
        )
    where = f"{path}: {layout.names_file}"
    lines = files[layout.names_file].decode("utf-8", errors="replace").splitlines()
    classes = tuple(line.strip() for line in lines if line.strip())
    if len(classes) != layout.classes:
        expected = f"{layout.classes} lines"
        raise InputError(
            "wrong number of class names", where=where, expected=expected, actual=len(classes)
        )
    parts = [_cifar_records(files[name], layout, f"{path}: {name}") for name in layout.train_files]
    x_test, y_test = _cifar_records(files[layout.test_file], layout, f"{path}: {layout.test_file}")
    x_train, y_train = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return RawData(classes, x_train, y_train, x_test, y_test)


def _cifar_records(
    content: bytes, layout: CifarLayout, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split a file into images (N, 3, 32, 32) uint8 and labels (N,) int64."""
    if not content or len(content) % layout.record_bytes:
        raise InputError(
            "truncated or damaged",
            where=where,
            expected=f"whole records of {layout.record_bytes} bytes",
            actual=f"{len(content)} bytes",
            mend="download it again",
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, layout.record_bytes)
    labels = check_labels(records[:, layout.label_bytes - 1], layout.classes, where)
    images = np.ascontiguousarray(records[:, layout.label_bytes :])
    return images.reshape(-1, 3, 32, 32), labels


def _refuse_pickles(name: str, layout: CifarLayout, path: Path) -> None:
    if name in layout.pickled_files:
        raise InputError(
            "this is the Python version, which holds pickles, and pickles are never loaded",
            where=str(path),
            expected=layout.archive,
            actual=f"a file {name}",
            mend=f"use the binary version: {layout.archive}",
        )


def _check_file_size(size: int, name: str, layout: CifarLayout, path: Path) -> None:
    limit = layout.size_limits.get(name, 2**20)
    if size > limit:
        expected = f"at most {limit} bytes"
        raise InputError(
            "the file is too large", where=f"{path}: {name}", expected=expected, actual=size
        )


def _read_folder_files(path: Path, layout: CifarLayout) -> dict[str, bytes]:
    """Read the required files of an extracted archive."""
    files = {}
    for file in sorted(path.iterdir()):
        if not file.is_file():
            continue
        _refuse_pickles(file.name, layout, path)
        if file.name in layout.size_limits:
            _check_file_size(file.stat().st_size, file.name, layout, path)
            files[file.name] = file.read_bytes()
    return files


class _CappedGzip(gzip.GzipFile):
    """A gzip stream that rejects very large single reads.

    Without it, `tarfile` would read a long-name or pax header of any declared size at once.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= 2**20:
            raise tarfile.ReadError("a header or block that is far too large")
        return super().read(size)


def _read_tar(path: Path, layout: CifarLayout) -> dict[str, bytes]:
    """Read the required members of the archive into memory; nothing is extracted to disk."""
    files: dict[str, bytes] = {}
    try:
        with _CappedGzip(path) as stream, tarfile.TarFile(fileobj=stream) as archive:
            for count, member in enumerate(archive):
                name = PurePosixPath(member.name).name
                if not member.isdir():
                    _refuse_pickles(name, layout, path)
                # Skipped members are decompressed as well, so the limit applies to all.
                _check_file_size(member.size, name, layout, path)
                if name in layout.size_limits and member.isreg():
                    files[name] = _read_member(archive, member)
                if len(files) == len(layout.size_limits) or count > 100:
                    break
    except BROKEN_FILE as error:
        raise InputError(
            "truncated or damaged archive",
            where=str(path),
            expected=layout.archive,
            actual=error,
            mend="download it again",
        ) from error
    return files


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    if content is None:
        raise tarfile.ReadError(f"{member.name} is not a file")
    blocks = []
    while block := content.read(2**20):
        blocks.append(block)
    return b"".join(blocks)
