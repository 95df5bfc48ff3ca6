"""The files that `hwnas check` writes besides its output, whichever way a check ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwnas.cli.unforeseen import ending
from hwnas.errors import HwnasError, InputError


def remove_earlier_verdicts(written: dict[str, Path | None]) -> None:
    """Remove files that an earlier check wrote, so that they are not taken for this one's."""
    for option, path in written.items():
        _require_writable(option, path)
        if path is not None:
            path.unlink(missing_ok=True)


def require_apart(written: dict[str, Path | None], read: tuple[Path | None, ...]) -> None:
    """Refuse to write a verdict over one of the files that are read."""
    # realpath, unlike Path.resolve, does not end on links that point to themselves.
    inputs = {os.path.realpath(path) for path in read if path is not None}
    for option, path in written.items():
        if path is not None and os.path.realpath(path) in inputs:
            raise InputError(
                "would overwrite a file that the check reads", where=f"{option} {path}"
            )


@contextmanager
def ending_written(
    model: Path, junit: Path | None, markdown: Path | None, *, as_json: bool
) -> Iterator[None]:
    """Write why a check ends without a verdict to the JUnit and Markdown files.

    Args:
        model: the model file.
        junit: the JUnit file, if one is asked for.
        markdown: the Markdown file, if one is asked for.
        as_json: whether to print a JSON object with the error on stdout.

    Raises:
        UnforeseenError: in place of any other exception than HwnasError and OSError; InputError
            where memory ran out.
    """
    try:
        yield
    except (HwnasError, OSError) as error:
        code = error.exit_code if isinstance(error, HwnasError) else 2
        _write_ending(model, str(error), code, junit, markdown)
        if as_json:
            details = error.details if isinstance(error, HwnasError) else ""
            _print_ending(str(error), code, details=details or None)
        raise
    except Exception as error:  # whatever it is, callers read the files and the exit code
        ended = ending(error, "the check ended with an unforeseen error", str(model))
        _write_ending(model, str(ended), ended.exit_code, junit, markdown)
        if as_json:
            _print_ending(str(ended), ended.exit_code, traceback=ended.details or None)
        raise ended from error


def _print_ending(line: str, exit_code: int, **more: str | None) -> None:
    """Print why there is no verdict as a JSON object."""
    from hwnas.reporting.verdict import ending_of

    print(json.dumps({"verdict": ending_of(exit_code), "error": line, **more}))


def _write_ending(
    model: Path, line: str, exit_code: int, junit: Path | None, markdown: Path | None
) -> None:
    from hwnas.durable import write_atomic
    from hwnas.reporting.verdict import refusal_to_junit, refusal_to_markdown

    for path, to_text in ((junit, refusal_to_junit), (markdown, refusal_to_markdown)):
        if path is not None and _is_writable(path):
            write_atomic(path, to_text(model.name, line, exit_code))


@contextmanager
def enough_memory(model: Path) -> Iterator[None]:
    """Refuse a model that this process has not enough memory for."""
    try:
        yield
    except MemoryError:
        raise InputError(
            "the check needs more memory than this machine has",
            where=str(model),
            mend="state smaller sizes with --input",
        ) from None


def write_verdict(document: dict[str, Any], junit: Path | None, markdown: Path | None) -> None:
    """Write the verdict to the JUnit and Markdown files that are asked for."""
    from hwnas.durable import write_atomic
    from hwnas.reporting.verdict import to_junit, to_markdown

    if junit is not None:
        write_atomic(junit, to_junit(document))
    if markdown is not None:
        write_atomic(markdown, to_markdown(document))


def _require_writable(option: str, path: Path | None) -> None:
    """Refuse a path that cannot be written before anything is measured."""
    if path is not None and not _is_writable(path):
        raise InputError("cannot be written", where=f"{option} {path}")


def _is_writable(path: Path) -> bool:
    return not path.is_dir() and os.access(path.absolute().parent, os.W_OK)
