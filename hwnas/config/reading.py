"""Reading configurations: TOML files, names of shipped ones, and `key=value` overrides."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from hwnas.config.sections import Config
from hwnas.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DEFAULT_CONFIG = "default"
MAX_SPACE_FILE = 100_000
"""Largest file, in bytes, that describes a search space."""
MOST_ERRORS = 12
"""Errors of one configuration that are listed at once."""


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a complete configuration.

    Args:
        source: a TOML file, or the name of a configuration that ships; the default one if None.
        overrides: `key=value` with dotted keys and TOML values, `train.epochs=3`; a value that
            is no TOML is taken as a string.

    Raises:
        InputError: naming the file and all keys that are missing, unknown or of the wrong type.
    """
    return parse_config(read_document(source, overrides), config_name(source))


def read_document(
    source: str | Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Read a configuration without validating it; arguments and errors as for `load_config`."""
    where = config_name(source)
    document = _parse_toml(_read(source), where)
    apply_overrides(document, overrides)
    space = document.get("space")
    if isinstance(space, dict) and "file" in space:
        document["space"] = _space_of_file(space, where)
    return document


def config_name(source: str | Path | None = None) -> str:
    """How errors name a configuration: its path, or the file name of a shipped one."""
    name = str(source or DEFAULT_CONFIG)
    return f"{name}.toml" if name in shipped_configs() else name


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
    apply_overrides(document, overrides)
    return document


def apply_overrides(document: dict[str, Any], overrides: Sequence[str]) -> None:
    """Change a document in place by `key=value` overrides.

    Raises:
        InputError: when one is malformed.
    """
    for override in overrides:
        _apply(document, override)


def parse_config(document: dict[str, Any], where: str = "configuration") -> Config:
    """Validate a document against the schema; `where` names its file in errors.

    Raises:
        InputError: naming everything that is wrong, then what is missing.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        # A key that is wrong explains why another one is missing, so it is named first.
        errors = sorted(error.errors(), key=lambda e: e["type"] == "missing")
        raise _refusal(errors, where) from None


def require_valid_keys(document: dict[str, Any], where: str) -> None:
    """Validate the keys that a document states, whatever it leaves out.

    Raises:
        InputError: naming everything that is wrong.
    """
    try:
        Config.model_validate(document)
    except ValidationError as error:
        wrong = [e for e in error.errors() if e["type"] != "missing"]
        if wrong:
            raise _refusal(wrong, where) from None


def _refusal(errors: Sequence[ErrorDetails], where: str) -> InputError:
    """One line that lists validation errors."""
    listed = [_describe(e) for e in errors[:MOST_ERRORS]]
    more = len(errors) - len(listed)
    return InputError("; ".join([*listed, *([f"{more} more errors"] if more else [])]), where=where)


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths, so that it can be resumed from any folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    def absolute_database(location: str | None) -> str | None:
        if location is None or "://" not in location:
            return absolute(location)
        file = location.removeprefix("sqlite:///")
        return location if file == location else f"sqlite:///{absolute(file)}"

    measurements = absolute(config.latency.device_measurements)
    storage = absolute_database(config.search.storage)
    search = {
        "accuracy_table": absolute(config.search.accuracy_table),
        "storage": storage,
        "start": absolute(config.search.start),
    }
    train = {"start": absolute(config.train.start), "teacher": absolute(config.train.teacher)}
    tables = [
        # The name of a table that ships stays a name.
        d.model_copy(update={"table": absolute(d.table)})
        if d.table and Path(d.table).exists()
        else d
        for d in config.devices
    ]
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": absolute(config.data.path)}),
            "latency": config.latency.model_copy(update={"device_measurements": measurements}),
            "search": config.search.model_copy(update=search),
            "train": config.train.model_copy(update=train),
            "devices": tables,
            "knowledge": absolute_database(config.knowledge),
        }
    )


def shipped_configs() -> list[str]:
    """Names of the configurations that ship."""
    files = resources.files("hwnas.configs").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def _read(source: str | Path | None) -> str:
    name = str(source or DEFAULT_CONFIG)
    if name in shipped_configs():
        return (resources.files("hwnas.configs") / f"{name}.toml").read_text("utf-8")
    try:
        return Path(name).read_text("utf-8-sig")
    except FileNotFoundError:
        names = shipped_configs()
        raise InputError(
            "no such configuration",
            where=name,
            expected=f"a TOML file or one of {', '.join(names)}",
            mend=did_you_mean(name, names),
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


def _describe(error: ErrorDetails) -> str:
    """One validation error as `key: what is wrong, what may have been meant`."""
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "missing":
        return f"{key}: missing key"
    if error["type"] == "extra_forbidden":
        return ", ".join(filter(None, (f"{key}: unknown key", _known_key(path))))
    given = error["input"]
    message = f"{key}: {error['msg']}" if key else error["msg"]
    if isinstance(given, dict):
        return message
    options = re.findall(r"'([^']*)'", error.get("ctx", {}).get("expected", ""))
    return ", ".join(filter(None, (message, f"got {given!r}", did_you_mean(str(given), options))))


def _known_key(path: list[str]) -> str:
    """The known key that an unknown one resembles, in its own table or in another."""
    *tables, word = path
    fields = _fields(tables)
    if hint := did_you_mean(word, fields):
        return hint
    for name in Config.model_fields:
        if word in _fields([name]):
            return f"did you mean {name}.{word}?"
    return ""


def _fields(tables: list[str]) -> list[str]:
    """The keys that a table of the configuration may have."""
    model: type[BaseModel] = Config
    for name in tables:
        field = model.model_fields.get(name)
        inner = None if field is None else field.annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
