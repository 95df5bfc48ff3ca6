"""Which files of class folders are read: one set of rules for images and sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import pixels, refusal, save_wav
from PIL import Image

from hwnas.data import load_dataset

KINDS = {"folder": ".png", "sounds": ".wav"}
pytestmark = pytest.mark.parametrize("kind", KINDS)


def save(kind: str, file: Path) -> Path:
    """Save an image or a sound, whatever the name of the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "sounds":
        return save_wav(file, np.zeros(100))
    Image.fromarray(pixels(4, 4, 3)).save(file, "PNG")
    return file


def save_folder(kind: str, path: Path, held_out: str = "test") -> Path:
    for split in ("train", held_out):
        for label in "ab":
            for number in range(2):
                save(kind, path / split / label / f"{number}{KINDS[kind]}")
    return path


def test_suffixes_in_capitals_are_read(kind: str, tmp_path: Path) -> None:
    save(kind, save_folder(kind, tmp_path) / "train" / "a" / f"X{KINDS[kind].upper()}")
    data = load_dataset(kind, str(tmp_path))
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1]
    assert data.notes == ()


def test_hidden_files_and_litter_are_skipped(kind: str, tmp_path: Path) -> None:
    folder = save_folder(kind, tmp_path) / "train"
    (folder / "a" / f"._0{KINDS[kind]}").write_bytes(b"\0\5\x16\7" + bytes(100))
    (folder / ".DS_Store").write_bytes(b"any")
    (folder / "a" / "Thumbs.db").write_bytes(b"any")
    (folder / ".ipynb_checkpoints").mkdir()
    data = load_dataset(kind, str(tmp_path))
    assert (data.classes, len(data.train), data.notes) == (("a", "b"), 4, ())


def test_what_is_not_read_is_named_in_a_note(kind: str, tmp_path: Path) -> None:
    folder = save_folder(kind, tmp_path) / "train"
    (folder / "a" / "song.m4a").write_bytes(b"any")
    (folder / "b" / "more").mkdir()
    (folder / "labels.csv").write_bytes(b"any")
    (note,) = load_dataset(kind, str(tmp_path)).notes
    assert "3 files or folders are not among the" in note
    for name in ("train/a/song.m4a", "train/b/more/", "train/labels.csv"):
        assert name in note


def test_a_class_of_the_test_split_alone_is_refused(kind: str, tmp_path: Path) -> None:
    save(kind, save_folder(kind, tmp_path) / "test" / "c" / f"0{KINDS[kind]}")
    message = refusal(load_dataset, kind, str(tmp_path))
    assert message.startswith(str(tmp_path / "test" / "c"))
    assert "a test class without training" in message


def test_the_folder_val_serves_as_test_unless_there_is_one(kind: str, tmp_path: Path) -> None:
    save_folder(kind, tmp_path, held_out="val")
    assert len(load_dataset(kind, str(tmp_path)).test) == 4
    save(kind, tmp_path / "test" / "a" / f"0{KINDS[kind]}")
    assert len(load_dataset(kind, str(tmp_path)).test) == 1


def test_empty_classes_of_the_training_split_are_all_named(kind: str, tmp_path: Path) -> None:
    folder = save_folder(kind, tmp_path) / "train"
    (folder / "c").mkdir()
    message = refusal(load_dataset, kind, str(tmp_path))
    assert message.startswith(f"{folder / 'c'}: a class without")
    (folder / "d").mkdir()
    (folder / "d" / "notes.txt").write_bytes(b"any")
    message = refusal(load_dataset, kind, str(tmp_path))
    assert "2 of 4 class folders: c, d" in message


def test_a_class_may_be_absent_from_the_test_split_and_is_noted(kind: str, tmp_path: Path) -> None:
    folder = save_folder(kind, tmp_path) / "test" / "b"
    for file in folder.iterdir():
        file.unlink()
    data = load_dataset(kind, str(tmp_path))
    assert data.test.targets.tolist() == [0, 0]
    assert any(str(tmp_path / "test") in note and "classes b" in note for note in data.notes)
    folder.rmdir()
    assert load_dataset(kind, str(tmp_path)).notes == data.notes
    for file in (tmp_path / "test" / "a").iterdir():
        file.unlink()
    assert str(tmp_path / "test") in refusal(load_dataset, kind, str(tmp_path))
