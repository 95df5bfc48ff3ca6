"""Write `docs/settings.md` from the models that check a configuration.

`python docs/make_settings.py` writes the page; with `--check` it says whether it is up to date.
"""

from __future__ import annotations

import argparse
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hwnas.config import Config
from hwnas.spaces import SPACES
from hwnas.spaces.base import SpaceOptions
from hwnas.strategies import STRATEGIES

PAGE = Path(__file__).parent / "settings.md"
INTRODUCTION = """\
# All settings

<!-- Written by docs/make_settings.py from the models in hwnas; do not edit. -->

A configuration is one TOML file, and [`hwnas/configs/`](../hwnas/configs) holds complete ones,
whose names stand for the files. An unknown key, a wrong type or a value out of range is an error
that names file and key. On the command line, `--set train.epochs=30` changes one setting; keys are
dotted, and values are TOML. A run keeps its settings in `config.toml`.

"required" stands for a setting that a table has to state, and "-" for no value. A file may leave
out whole tables, all but `[data]`: [they are then chosen](tasks_and_data.md).
"""
SPACES_TEXT = """\
## Spaces

The options of the space that `space.name` selects, as further keys of `[space]`. What the networks
read and predict (`input_channels`, `height`, `width`, `classes`, `head`, `vocabulary`) comes from
the data. In place of all keys, `space.file` may name a TOML file that holds them.
[Search spaces](spaces.md) explains them.
"""
STRATEGIES_TEXT = """\
## Strategies

Each strategy reads the table `[search.settings.NAME]`;
`--set search.settings.evolution.population=20`
sets one on the command line.
"""
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", Any: "any"}


def type_of(annotation: Any) -> str:
    """A type in words, for readers who do not write Python."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_of(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_of(a) for a in arguments if a is not type(None))
    if origin in (list, tuple):
        inner = type_of(arguments[0])
        return f"list of {inner}s" if inner in NAMES.values() else f"list of: {inner}"
    if origin in (dict, Mapping):
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def metadata_of(annotation: Any) -> Iterator[Any]:
    """The constraints inside an annotation, such as `Annotated[float, Field(gt=0)] | None`."""
    if get_origin(annotation) is Annotated:
        for item in annotation.__metadata__:
            yield from item.metadata if isinstance(item, FieldInfo) else (item,)
    elif get_origin(annotation) in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from metadata_of(argument)


def range_of(field: FieldInfo) -> str:
    """The bounds of a number, in words; empty if there are none."""
    found = []
    for item in [*field.metadata, *metadata_of(field.annotation)]:
        found += [
            f"{words} {getattr(item, key):g}" for key, words in BOUNDS.items() if hasattr(item, key)
        ]
    return ", ".join(dict.fromkeys(found))


def default_of(field: FieldInfo) -> str:
    """The default as TOML writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel):
        return "-"
    text = str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"')
    text = re.sub(r"^[(](.*)[)]$", r"[\1]", text)
    return f"`{text}`"


def row(name: str, field: FieldInfo) -> str:
    """A line of a table."""
    kind = ", ".join(part for part in (type_of(field.annotation), range_of(field)) if part)
    description = field.description or ""
    if not description:
        raise SystemExit(f"{name}: no description")
    description = description[0].upper() + description[1:].rstrip(".").replace("\n", " ")
    cells = (f"`{name}`", kind, default_of(field), description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def table(fields: Mapping[str, FieldInfo]) -> str:
    """A Markdown table of settings."""
    head = "| key | type | default | meaning |\n|---|---|---|---|\n"
    rows = (row(field.alias or name, field) for name, field in fields.items())
    return head + "\n".join(rows) + "\n"


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The table that an annotation stands for, also if it may be left out."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def page() -> str:
    """The whole page."""
    top, parts = {}, []
    for name, field in Config.model_fields.items():
        model = section_of(field.annotation)
        if model is not None:
            heading = f"## `[[{name}]]`" if name == "devices" else f"## `[{name}]`"
            summary = (model.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")
            parts.append(f"{heading}\n\n{summary}\n\n{table(model.model_fields)}")
        else:
            top[name] = field
    parts.insert(0, f"## Top of the file\n\n{table(top)}")
    parts.append(SPACES_TEXT)
    for name, space in SPACES.items():
        own = dict(space.options_model.model_fields)
        for shared in SpaceOptions.model_fields:
            own.pop(shared, None)
        parts.append(f"### `{name}`\n\n{table(own)}")
    parts.append(STRATEGIES_TEXT)
    for name, strategy in STRATEGIES.items():
        fields = strategy.settings_model.model_fields
        body = table(fields) if fields else "It has no settings.\n"
        parts.append(f"### `{name}`\n\n{strategy.paper}.\n\n{body}")
    return "\n".join([INTRODUCTION, *parts])


def main() -> None:
    """Write the page, or with `--check` say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is stale")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        raise SystemExit(f"{PAGE}: stale, run python docs/make_settings.py")


if __name__ == "__main__":
    main()
