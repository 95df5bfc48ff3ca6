"""Reading configurations: TOML files, names of shipped ones, and `key=value` overrides."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hwnas.config.sections import Config
from hwnas.errors import InputError

DEFAULT_CONFIG = "default"
MAX_SPACE_FILE = 100_000
"""Largest file, in bytes, that describes a search space."""


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        source: a TOML file, or the name of a configuration that ships; the default one if None.
        overrides: `key=value` with dotted keys and TOML values, `train.epochs=3`; a value that
            is no TOML is taken as a string.

    Raises:
        InputError: naming the file and key, for what is missing, unknown or of the wrong type.
    """
    text, where = _read(source)
    document = _parse_toml(text, where)
    for override in overrides:
        _apply(document, override)
    space = document.get("space")
    if isinstance(space, dict) and "file" in space:
        document["space"] = _space_of_file(space, where)
    return parse_config(document, where)


def read_space_file(path: str | Path) -> dict[str, Any]:
    """Read a file that contains the `[space]` table of a configuration.

    Raises:
        InputError: when the file is missing, too long, no TOML, or names no space.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_SPACE_FILE + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read", where=str(path), actual=error) from None
    if len(content) > MAX_SPACE_FILE:
        raise InputError("too long", where=str(path), expected=f"at most {MAX_SPACE_FILE} bytes")
    document = _parse_toml(text, str(path))
    if not isinstance(document.get("name"), str):
        raise InputError(
            "the search space is not named", where=f"{path}: name", expected='a space, as "macro"'
        )
    return document


def _space_of_file(space: dict[str, Any], where: str) -> dict[str, Any]:
    """The table that replaces a `[space]` with the key `file`."""
    path, others = space["file"], sorted(set(space) - {"file"})
    if not isinstance(path, str):
        raise InputError("malformed", where=f"{where}: space.file", expected="a path", actual=path)
    if others:
        raise InputError(
            "file replaces all other keys of the space",
            where=f"{where}: space.file",
            actual=", ".join(others),
            mend="move them to that file",
        )
    return read_space_file(path)


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError("not TOML", where=where, actual=error) from None


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The nested mapping that `key=value` overrides describe.

    Raises:
        InputError: when one is malformed.
    """
    document: dict[str, Any] = {}
    for override in overrides:
        _apply(document, override)
    return document


def parse_config(document: dict[str, Any], where: str = "configuration") -> Config:
    """Validate a document against the schema; `where` names its file in errors.

    Raises:
        InputError: naming the key of the first error.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise InputError(*_first_error(error, where)) from None


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths, so that it can be resumed from any folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    measurements = absolute(config.latency.device_measurements)
    storage = config.search.storage
    if storage is not None and "://" not in storage:
        storage = absolute(storage)
    elif storage is not None and storage.startswith("sqlite:///"):
        storage = f"sqlite:///{absolute(storage.removeprefix('sqlite:///'))}"
    search = {"accuracy_table": absolute(config.search.accuracy_table), "storage": storage}
    tables = [
        # The name of a table that ships stays a name.
        d.model_copy(update={"table": absolute(d.table)}) if Path(d.table).exists() else d
        for d in config.devices
    ]
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": absolute(config.data.path)}),
            "latency": config.latency.model_copy(update={"device_measurements": measurements}),
            "search": config.search.model_copy(update=search),
            "devices": tables,
        }
    )


def shipped_configs() -> list[str]:
    """Names of the configurations that ship."""
    files = resources.files("hwnas.configs").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def _read(source: str | Path | None) -> tuple[str, str]:
    name = str(source or DEFAULT_CONFIG)
    if name in shipped_configs():
        shipped = resources.files("hwnas.configs") / f"{name}.toml"
        return shipped.read_text(), f"{name}.toml"
    try:
        return Path(name).read_text(), name
    except FileNotFoundError:
        names = ", ".join(shipped_configs())
        raise InputError(
            "no such configuration", where=name, expected=f"a TOML file or one of {names}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read", where=name, actual=error) from None


def _apply(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError("malformed override", where="--set", expected="key=value", actual=override)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.split(".")
    table = document
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError("not a table", where=f"--set {key}", actual=part)
    # ms and fraction exclude each other: the one that is set last replaces the other.
    if path == ["budget"] and last in ("ms", "fraction"):
        table.pop("ms", None)
        table.pop("fraction", None)
    # A file replaces the whole table.
    if path == ["space"] and last == "file":
        table.clear()
    table[last] = value


def _first_error(error: ValidationError, where: str) -> tuple[str]:
    # A wrong key is a likelier mistake than the missing one that it may stand for.
    first = min(error.errors(), key=lambda e: e["type"] == "missing")
    key = ".".join(str(part) for part in first["loc"])
    given = first["input"]
    actual = "" if isinstance(given, dict) else f", got {given!r}"
    message = {
        "extra_forbidden": "unknown key",
        "missing": "missing key",
    }.get(first["type"], first["msg"])
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    return (f"{where}: {key}: {message}{actual}{rest}",)
