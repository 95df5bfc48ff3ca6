"""CIFAR archives: known pixels, pickles, and damaged or hostile archives."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import Touch, damaged, fuzz, loads_or_is_refused, pixels, refusal
from hypothesis import given
from hypothesis import strategies as st

from hwnas.data import DATASETS, load_dataset

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def cifar_files(name: str, records: int = 3) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Return the files of a small archive, and the training images and labels in it."""
    if name == "cifar10":
        train_files = [f"data_batch_{number}.bin" for number in range(1, 6)]
        names, names_file, test_file = CIFAR10_NAMES, "batches.meta.txt", "test_batch.bin"
    else:
        train_files, test_file = ["train.bin"], "test.bin"
        names, names_file = [f"fine{number}" for number in range(100)], "fine_label_names.txt"
    rng = np.random.default_rng(0)
    count = records * len(train_files)
    images, labels = pixels(count, 3, 32, 32), rng.integers(0, len(names), count)
    content = [
        (b"" if name == "cifar10" else b"\x07") + bytes([label]) + image.tobytes()
        for image, label in zip(images, labels, strict=True)
    ]
    files = {
        file: b"".join(content[records * index : records * (index + 1)])
        for index, file in enumerate(train_files)
    }
    files |= {test_file: content[0], names_file: "\n".join([*names, "", ""]).encode()}
    return files, images, labels


def save_tar(path: Path, files: dict[str, bytes], folder: str = "batches-bin") -> str:
    with tarfile.open(path, "w:gz") as archive:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_pixels_and_labels_are_read(name: str, packed: bool, tmp_path: Path) -> None:
    files, images, labels = cifar_files(name)
    if packed:
        path = save_tar(tmp_path / "archive.tar.gz", files)
    else:
        path = str(tmp_path)
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
    data = load_dataset(name, path)
    np.testing.assert_array_equal(data.train.inputs, images)
    np.testing.assert_array_equal(data.train.targets, labels)
    np.testing.assert_array_equal(data.test.inputs, images[:1])
    first_names = {"cifar10": ("airplane", "automobile"), "cifar100": ("fine0", "fine1")}
    assert data.classes[:2] == first_names[name]
    assert len(data.classes) == {"cifar10": 10, "cifar100": 100}[name]
    if packed:
        assert [file.name for file in tmp_path.iterdir()] == ["archive.tar.gz"]  # nothing extracted


@pytest.mark.parametrize("name, pickled", [("cifar10", "data_batch_1"), ("cifar100", "train")])
def test_python_version_of_cifar_is_refused_unread(name: str, pickled: str, tmp_path: Path) -> None:
    content = pickle.dumps(Touch(tmp_path / "executed"))
    packed = save_tar(tmp_path / "python.tar.gz", {pickled: content}, "batches-py")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / pickled).write_bytes(content)
    for path in (packed, str(tmp_path / "folder")):
        message = refusal(load_dataset, name, path)
        assert "pickles" in message
        assert DATASETS[name].expected.split(",")[0] in message
    assert not (tmp_path / "executed").exists()


def test_cifar_with_wrong_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    files, _, _ = cifar_files("cifar10")
    batch = files["data_batch_2.bin"]
    for change, words in [
        ({"data_batch_2.bin": batch[:-1]}, ["data_batch_2.bin", "truncated", "3073"]),
        ({"data_batch_2.bin": b""}, ["data_batch_2.bin", "0 bytes"]),
        ({"data_batch_2.bin": b"\x0a" + batch[1:]}, ["data_batch_2.bin", "0..9", "10"]),
        ({"batches.meta.txt": b"cat\ndog\n"}, ["batches.meta.txt", "10 lines", "2"]),
    ]:
        message = refusal(load_dataset, "cifar10", save_tar(path, files | change))
        for word in [str(path), *words]:
            assert word in message
    del files["test_batch.bin"]
    assert "missing test_batch.bin" in refusal(load_dataset, "cifar10", save_tar(path, files))
    assert "missing train.bin" in refusal(load_dataset, "cifar100", str(path))
    (tmp_path / "empty").mkdir()
    message = refusal(load_dataset, "cifar10", str(tmp_path / "empty"))
    assert "cifar-10-binary.tar.gz" in message
    with (tmp_path / "empty" / "data_batch_1.bin").open("wb") as file:
        file.truncate(2**35)
    assert "too large" in refusal(load_dataset, "cifar10", str(tmp_path / "empty"))


def test_truncated_cifar_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    content = Path(save_tar(path, cifar_files("cifar100")[0])).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "truncated" in refusal(load_dataset, "cifar100", str(path))
    path.write_bytes(b"not gzip at all")
    assert "damaged" in refusal(load_dataset, "cifar100", str(path))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_huge_tar_members_are_refused_unread(kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo("data_batch_1.bin")
    member.size, member.type = 2**40, kind
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    assert "too large" in refusal(load_dataset, "cifar10", str(path))


def test_tar_links_and_endless_members_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(3074))
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("train.bin", "test.bin"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.bin")
            archive.addfile(link)
        for number in range(200):
            archive.addfile(tarfile.TarInfo(f"filler{number}"))
        archive.addfile(tarfile.TarInfo("fine_label_names.txt"))
    message = refusal(load_dataset, "cifar100", str(path))
    assert "missing train.bin, test.bin, fine_label_names.txt" in message


@fuzz
@given(draw=st.data())
def test_damaged_tar_archives_load_or_are_refused(draw: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    content = gzip.decompress(Path(save_tar(path, cifar_files("cifar100", 1)[0])).read_bytes())
    path.write_bytes(gzip.compress(damaged(content, draw), 1))
    loads_or_is_refused("cifar100", path)
