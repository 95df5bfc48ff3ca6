"""Reading and writing files: JSON is validated strictly, and files are written atomically."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hwnas import durable
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
    """Write a file so that `path` always holds either its old content or the whole new text.

    The text is compressed if the name ends in `.gz`.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    data = text.encode()
    if path.suffix == ".gz":
        # No time stamp, so that equal tables give equal files.
        data = gzip.compress(data, mtime=0)
    try:
        durable.write_atomic(path, data)
    except OSError as error:
        raise InputError(f"cannot write the file: {error.strerror}", where=str(path)) from error


def show(value: object) -> str:
    """Return a short, printable form of a value that was found in a file."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_bytes(path: Path) -> bytes:
    """Read a file of at most `MAX_BYTES`, decompressed if its name ends in `.gz`.

    Raises:
        InputError: the file is missing or too large, or its compressed data is damaged.
    """
    try:
        # This also excludes pipes and devices, which may never end.
        if not path.is_file():
            raise InputError(
                "no such file",
                where=str(path),
                expected="a latency table",
                mend="run `hwnas profile`",
            )
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", where=str(path)) from error
    if len(data) > MAX_BYTES:
        raise InputError("too large for a table", where=str(path), expected=f"<= {MAX_BYTES} bytes")
    return data


def parse_json(data: bytes, path: Path) -> Any:
    """Parse the bytes of a file as JSON.

    Raises:
        InputError: the data is truncated or not JSON, or an object has a key twice.
    """

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError("a key appears twice", where=f"{path}: {show(twice)}", expected="once")
        return content

    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"not a complete JSON file: {show(error)}",
            where=str(path),
            mend="restore the file or measure the table again",
        ) from error


def input_error(error: ValidationError, path: Path) -> InputError:
    """Return the first of pydantic's errors as one line that names the file and the key."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    where = f"{path}: {show(key)[1:-1]}" if key else str(path)
    message = first["msg"]
    match first["type"]:
        case "missing":
            return InputError("missing key", where=where)
        case "extra_forbidden":
            return InputError("unknown key", where=where, actual=show(first["input"]))
        case "value_error":
            return InputError(message.removeprefix("Value error, "), where=where)
        case _:
            return InputError(
                "invalid value",
                where=where,
                expected=message.removeprefix("Input should be "),
                actual=show(first["input"]),
            )
