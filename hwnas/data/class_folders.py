"""The folders of a classification dataset: train/<class>/ and test/<class>/, of any kind of file.

The same rules hold for images and sounds:

- The folder `val` serves as the test split if there is no folder `test`.
- The classes are the folders in `train`. Each has to hold at least one file; a class may be
  absent from the test split, but the test split may not have a class of its own.
- Hidden files and folders are skipped. Suffixes are compared in lower case. Whatever else is not
  read is counted in a note.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from hwnas.data.formats import subset_indices
from hwnas.errors import InputError, printable

LISTED = 10
"""Number of folders or files that a message names."""
LITTER = ("desktop.ini", "thumbs.db")
"""Files that file managers leave behind, in lower case."""


class FileKind(NamedTuple):
    """A kind of file that is read from class folders.

    Attributes:
        name: what the files are, such as "images".
        suffixes: suffixes in lower case.
    """

    name: str
    suffixes: tuple[str, ...]

    @property
    def expected(self) -> str:
        """Description of the files, for error messages."""
        return f"files with suffix {', '.join(self.suffixes)}"


class ClassFolders(NamedTuple):
    """The files of both splits.

    Attributes:
        classes: names of the classes.
        train, test: files in the order of the classes, sorted by name within each class.
        y_train, y_test: class of each file, (N,) int64.
        notes: what was not read, in words.
    """

    classes: tuple[str, ...]
    train: list[Path]
    y_train: np.ndarray
    test: list[Path]
    y_test: np.ndarray
    notes: tuple[str, ...]


def list_class_folders(
    path: Path, kind: FileKind, limits: tuple[int | None, int | None], seed: int
) -> ClassFolders:
    """List the files of train/<class>/ and test/<class>/ (or val/<class>/).

    Args:
        path: folder with the folders of both splits.
        kind: the files to list.
        limits: largest number of training and of test samples; None for all.
        seed: selects the samples where a limit applies.

    Raises:
        InputError: a folder is missing, a class has no training files, the test split has no
            files, or it has a class that the training split lacks.
    """
    test_path = path / held_out_folder(path)
    classes = _class_names(path / "train", kind)
    unknown = sorted(set(_class_names(test_path, kind)) - set(classes))
    if unknown:
        raise InputError(
            f"a test class without training {kind.name}",
            where=str(test_path / unknown[0]),
            expected=f"one of the training classes {_listed(list(classes))}",
        )
    train, y_train, left_out = _list_split(path / "train", classes, kind)
    without = sorted(set(range(len(classes))) - set(y_train.tolist()))
    if without:
        empty = [classes[label] for label in without]
        one = len(empty) == 1
        raise InputError(
            f"a class without {kind.name}, as there are no {kind.name} in its folder"
            if one
            else f"no {kind.name} in {len(empty)} of {len(classes)} class folders: "
            f"{_listed(empty)}",
            where=str(path / "train" / empty[0] if one else path / "train"),
            expected=kind.expected,
            mend="remove the empty folder if there is no such class" if one else "",
        )
    test, y_test, test_left_out = _list_split(test_path, classes, kind)
    if not test:
        raise InputError(
            f"no {kind.name}",
            where=str(test_path),
            expected=f"{kind.expected} in the folders {_listed(list(classes))}",
        )
    notes = [_left_out_note(path, kind, left_out + test_left_out)]
    untested = [name for label, name in enumerate(classes) if label not in set(y_test.tolist())]
    if untested:
        notes.append(f"{test_path}: no {kind.name} of the classes {_listed(untested)}")
    chosen = subset_indices(len(train), limits[0], seed, "train")
    chosen_test = subset_indices(len(test), limits[1], seed, "test")
    return ClassFolders(
        classes,
        [train[index] for index in chosen],
        y_train[chosen],
        [test[index] for index in chosen_test],
        y_test[chosen_test],
        tuple(note for note in notes if note),
    )


def held_out_folder(path: Path) -> str:
    """Return the name of the test split's folder: `val` if there is that but no `test`."""
    has_val_only = (path / "val").is_dir() and not (path / "test").is_dir()
    return "val" if has_val_only else "test"


def files_of(folder: Path, kind: FileKind) -> list[Path]:
    """Return the files of a kind in a folder, sorted by name.

    Raises:
        InputError: there are none.
    """
    found, _ = _entries(folder, kind)
    if not found:
        raise InputError(f"no {kind.name}", where=str(folder), expected=kind.expected)
    return found


def _class_names(path: Path, kind: FileKind) -> tuple[str, ...]:
    """Return the sorted names of the class folders of a split."""
    expected = f"a folder {path.name}/ with one folder of {kind.name} for each class"
    if not path.is_dir():
        raise InputError("no such folder", where=str(path), expected=expected)
    names = [entry.name for entry in path.iterdir() if entry.is_dir()]
    classes = tuple(sorted(name for name in names if not name.startswith(".")))
    if not classes:
        raise InputError("no class folders", where=str(path), expected=expected)
    return classes


def _list_split(
    path: Path, classes: tuple[str, ...], kind: FileKind
) -> tuple[list[Path], np.ndarray, list[Path]]:
    """Return the files of a split, their labels (N,), and what lies beside them."""
    files: list[Path] = []
    labels: list[int] = []
    left_out = [entry for entry in _visible(path) if not entry.is_dir()]
    for label, name in enumerate(classes):
        found, others = _entries(path / name, kind)
        files += found
        labels += [label] * len(found)
        left_out += others
    return files, np.array(labels, np.int64), left_out


def _entries(folder: Path, kind: FileKind) -> tuple[list[Path], list[Path]]:
    """Return the files of a kind in a folder, and everything else that is not hidden."""
    found: list[Path] = []
    others: list[Path] = []
    for entry in _visible(folder):
        is_one = entry.suffix.lower() in kind.suffixes and entry.is_file()
        (found if is_one else others).append(entry)
    return found, others


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted by name, without hidden files; nothing if it is absent."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        entry
        for entry in entries
        if not entry.name.startswith(".") and entry.name.lower() not in LITTER
    ]


def _left_out_note(path: Path, kind: FileKind, left_out: list[Path]) -> str:
    """Describe files and folders that are not read; empty if there are none."""
    if not left_out:
        return ""
    names = [f"{entry.relative_to(path)}{'/' * entry.is_dir()}" for entry in left_out]
    found = "1 file or folder is" if len(names) == 1 else f"{len(names):,} files or folders are"
    return f"{path}: {found} not among the {kind.name} and left out: {_listed(names)}"


def _listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(printable(name, 80) for name in names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown}, and {len(names) - LISTED} more"
