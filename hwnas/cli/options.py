"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.errors import printable

ConfigArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG]",
        help="A TOML file, or the name of a configuration that ships (`hwnas info` lists them). "
        "Default: `default`.",
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout in place of text.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the configuration, as in train.epochs=3; may be repeated.",
    ),
]
SpaceName = Annotated[
    str | None,
    typer.Option(
        "--space",
        metavar="SPACE",
        help="Search space at its default sizes, in place of the configuration's.",
    ),
]
OnDevice = Annotated[
    str | None,
    typer.Option(
        "--device-name",
        metavar="NAME",
        help="Measure on this device of devices.toml, which is elsewhere (`hwnas devices list`). "
        "Default: measure on this machine.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue an unfinished run where it stopped.")
]


Force = Annotated[
    bool, typer.Option("--force", help="Replace or remove results of an earlier call.")
]


def example(line: str) -> str:
    """The epilog of a verb's help."""
    return f"Example: {line}"


def overrides_for_space(
    config: str | None, space: str | None, settings: list[str] | None
) -> list[str]:
    """The settings of a configuration whose space may be another: sizes in it belong to its own."""
    from hwnas.pipeline.configuration import load_config

    overrides = list(settings or [])
    if space is not None and space != load_config(config).space.name:
        overrides.insert(0, f"space={{name={json.dumps(space)}}}")
    return overrides


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals stop what runs inside, where it can continue later; show its messages."""
    from hwnas.runs import interruption

    interruption.install()
    handler = _Stderr()
    logger = logging.getLogger("hwnas")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Stderr(logging.Handler):
    """Writes messages to what is stderr at the moment, without prefixes."""

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(record.getMessage(), 2000), file=sys.stderr)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A run, locked."""
    from hwnas.pipeline.run import Run
    from hwnas.runs import progress

    with interruptible():
        current = Run.open(path, stage=progress.shown)
        with current.folder.locked():
            yield current


def print_result(document: dict[str, Any], as_json: bool, text: str) -> None:
    """A verb's only output on stdout."""
    print(json.dumps(document, allow_nan=False) if as_json else text)
