"""Progress of long stages: bars on a terminal, lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int, int, str], None]
"""Told (done, total, what is going on)."""

Stage = Callable[[str], AbstractContextManager[Advance]]
"""Opens a stage by its title."""

LINE_EVERY_S = 10.0


@contextmanager
def silent(title: str) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda done, total, text: None


@contextmanager
def shown(title: str) -> Iterator[Advance]:
    """A bar where stderr is a terminal; else a line at the start, every ten seconds, at the end."""
    if sys.stderr.isatty():
        with _bar(title) as advance:
            yield advance
    else:
        with _lines(title) as advance:
            yield advance


@contextmanager
def _bar(title: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=1, text="")

        def advance(done: int, total: int, text: str) -> None:
            bars.update(task, completed=done, total=total, text=text)

        yield advance


@contextmanager
def _lines(title: str) -> Iterator[Advance]:
    started = shown_at = time.monotonic()
    last = ""

    def advance(done: int, total: int, text: str) -> None:
        nonlocal shown_at, last
        last = f"{done}/{total} {text}"
        if time.monotonic() - shown_at >= LINE_EVERY_S:
            shown_at = time.monotonic()
            print(f"{title}: {last}", file=sys.stderr, flush=True)

    yield advance
    seconds = time.monotonic() - started
    print(f"{title}: {last}, {seconds:.0f} s", file=sys.stderr, flush=True)
