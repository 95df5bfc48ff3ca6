"""Files as a table needs them: JSON read with suspicion, text written whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

from hwnas.errors import InputError

MAX_BYTES = 64 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most `MAX_BYTES`.

    Raises:
        InputError: the file is missing, too large, truncated or not JSON, or one of its objects
            has a key twice.
    """
    content = parse_json(read_bytes(path), path)
    if not isinstance(content, dict):
        raise InputError("not a table", where=str(path), expected="a JSON object")
    return content


def write_atomic(path: Path, text: str) -> None:
    """Write so that `path` holds either its old content or the whole text; `.gz` compressed.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = text.encode()
    if path.suffix == ".gz":
        # Without a time stamp, so that equal tables are equal files.
        data = gzip.compress(data, mtime=0)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write the file: {error.strerror}", where=str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def show(value: object) -> str:
    """Return a short, printable form of what was found in a file."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_bytes(path: Path) -> bytes:
    """Read a file of at most `MAX_BYTES`, decompressed where its name ends in `.gz`.

    Raises:
        InputError: the file is missing, too large, or its compression damaged.
    """
    try:
        # Also refuses pipes and devices, which could be read forever.
        if not path.is_file():
            raise InputError(
                "no such file",
                where=str(path),
                expected="a latency table",
                mend="run `hwnas profile`",
            )
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error
    if len(data) > MAX_BYTES:
        raise InputError("too large for a table", where=str(path), expected=f"<= {MAX_BYTES} bytes")
    return data


def parse_json(data: bytes, path: Path) -> Any:
    """Parse the bytes of a file, refusing a key that appears twice in one object.

    Raises:
        InputError: they are truncated or not JSON, or an object has a key twice.
    """

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError("a key appears twice", where=f"{path}: {show(twice)}", expected="once")
        return content

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"not a whole JSON file: {show(error)}",
            where=str(path),
            mend="restore the file or measure the table again",
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; not every platform can open a folder for that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
