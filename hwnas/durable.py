"""Files that a crash of the process or of the machine cannot tear.

What is written stays in memory for some time, and a power cut may lose it or cut it anywhere, file
by file and name by name. So everything of a run folder is written by these functions, in an order
that leaves something whole at any moment: the data of a file are on the disk before it has its
name, and the name is on the disk before the next step.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it; its name may still be lost.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    with _naming(path), path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where folders can be opened for that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace a file as a whole: readers see the old content or the new, never a part.

    Raises:
        OSError: it cannot be written; the error names the file, which is left as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(temporary, data.encode() if isinstance(data, str) else data)
        with _naming(path):
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def append_lines(path: Path, text: str) -> None:
    """Add whole lines to a file and wait until the disk has them.

    A last line that a crash cut short is removed before, and the new ones are removed again if
    they cannot be written whole.

    Args:
        path: the file; made if there is none.
        text: lines, each with its end.

    Raises:
        OSError: they cannot be written; the error names the file.
    """
    with _naming(path), path.open("ab", buffering=0) as file:
        whole = _whole_lines_bytes(path)
        file.truncate(whole)
        try:
            _write_all(file, text.encode())
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(whole)
            raise
    if whole == 0:
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and the missing ones above it, and wait until the disk has their names."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def _whole_lines_bytes(path: Path) -> int:
    """The size of a file without a last line that has no end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return 0
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return size
        file.seek(0)
        return file.read().rfind(b"\n") + 1


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Write all bytes, by as many calls as the system needs."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file to errors that name none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
