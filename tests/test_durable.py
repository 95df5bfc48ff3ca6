"""Writing to a full disk: nothing is lost, nothing half-written is left, the file is named."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from hwnas.durable import append_lines, make_folder, write_atomic
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every write beyond a size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(write: Callable[[], None], size: int, where: Path) -> None:
    with files_of_at_most(size), pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
        write()
    assert Path(caught.value.filename).is_relative_to(where)


@pytest.mark.parametrize("size", [0, 1, 5, 11])
def test_a_file_that_cannot_be_replaced_keeps_its_content(tmp_path, size: int) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")
    refused(lambda: write_atomic(file, "new content!"), size, tmp_path)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    write_atomic(file, "new content!")
    assert file.read_text() == "new content!"


@pytest.mark.parametrize("size", [6, 7, 10])
def test_lines_that_do_not_fit_are_left_out_as_a_whole(tmp_path, size: int) -> None:
    file = tmp_path / "history"
    append_lines(file, "first\n")
    refused(lambda: append_lines(file, "second\n"), size, file)
    assert file.read_text() == "first\n"
    append_lines(file, "third\n")
    assert file.read_text() == "first\nthird\n"


@pytest.mark.parametrize(
    "left, kept", [("", ""), ("a\nb", "a\n"), ("b", ""), ("a\n", "a\n"), ("\n", "\n")]
)
def test_a_line_without_an_end_is_replaced(tmp_path, left: str, kept: str) -> None:
    file = tmp_path / "history"
    file.write_text(left)
    append_lines(file, "c\n")
    assert file.read_text() == f"{kept}c\n"


@pytest.mark.parametrize("size", [0, 10, 100, 300])
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path, size: int) -> None:
    save_checkpoint(tmp_path, "search", 1, {"x": torch.ones(3)})
    refused(lambda: save_checkpoint(tmp_path, "search", 2, {"x": torch.ones(999)}), size, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["search-00000001"]
    loaded = load_checkpoint(tmp_path, "search")
    assert loaded is not None
    assert loaded[0] == 1


def test_folders_are_made_with_those_above(tmp_path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
