"""Progress of long stages: bars on a terminal, lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int, int, str], None]
"""Called with the steps done, all steps, and a short text about the last step."""

Stage = Callable[[str], AbstractContextManager[Advance]]
"""Opens a stage by its title."""

LINE_EVERY_S = 10.0


@contextmanager
def silent(title: str) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda done, total, text: None


@contextmanager
def shown(title: str) -> Iterator[Advance]:
    """Show a bar on a terminal; elsewhere a line every ten seconds and one at the end."""
    if sys.stderr.isatty():
        with _bar(title) as advance:
            yield advance
    else:
        with _lines(title) as advance:
            yield advance


def numbered(stage: Stage, titles: Sequence[str]) -> Stage:
    """Show where a stage stands among all stages of a run, as in "search (2 of 5)".

    Args:
        stage: opens the stages.
        titles: of all stages, in their order; a stage with another title has no number.
    """
    numbers = {title: f"{title} ({i} of {len(titles)})" for i, title in enumerate(titles, start=1)}
    return lambda title: stage(numbers.get(title, title))


@contextmanager
def _bar(title: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
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
        now = time.monotonic()
        last = ", ".join(filter(None, (f"{done:,}/{total:,}", text)))
        if now - shown_at >= LINE_EVERY_S:
            shown_at = now
            left_s = (now - started) / done * (total - done) if done else None
            left = f", {left_s:.0f} s left" if left_s else ""
            print(f"{title}: {last}{left}", file=sys.stderr, flush=True)

    yield advance
    seconds = time.monotonic() - started
    print(f"{title}: {last or 'done before'}, {seconds:.0f} s", file=sys.stderr, flush=True)
