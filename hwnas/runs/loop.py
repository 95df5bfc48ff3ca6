"""The loop of a long stage: steps, history, checkpoints, signals."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

from hwnas.runs import interruption
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.runs.run_folder import RunFolder

SPARSE_RECORDS = 100
"""About how many records of a stage hold what is too large for each."""


ENDED = "ended"
"""The event that says why a stage ended before its last step."""
_SPENT = "spent_s"


class Resumable(Protocol):
    """Work that is done step by step and can be stored between any two."""

    step: int

    def advance(self) -> dict[str, Any]:
        """Do one or more steps and count them; returns what the history says, `loss` among it."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that resumed work needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""


def run_steps(
    work: Resumable,
    folder: RunFolder,
    *,
    stage: str,
    steps: int,
    log_every: int,
    checkpoint_every: int,
    progress: Callable[[int, int, str], None],
    describe: Callable[[dict[str, Any]], str] = lambda record: f"loss {record['loss']:.3f}",
    ranks: Ranks = ALONE,
    also_log: Collection[int] = (),
    ended: Callable[[float], str | None] | None = None,
) -> None:
    """Work to the end, from the stage's newest checkpoint if there is one.

    Args:
        work: what is done.
        folder: has the checkpoints and the history.
        stage: names both.
        steps: when the work is done.
        log_every: steps between records of the history.
        checkpoint_every: steps between checkpoints.
        progress: called with the steps done, all steps, and what `describe` says.
        describe: a short text about the record of a step.
        ranks: the processes that do the same work; a signal to one stops all.
        also_log: further steps with a record in the history.
        ended: says after a step why the work ends early, None if it does not, from the seconds that
            were spent on it, those before an interruption included, and half of what the latest
            step took: a limit of time is missed by no more than half a step to either side. The
            reason is an event of the history.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
    """
    resumed = load_checkpoint(folder.checkpoints, stage)
    started = time.monotonic()
    if resumed is not None:
        work.load_state_dict(resumed[1])
        started -= resumed[1].get(_SPENT, 0.0)
    if ranks.writes:
        folder.rewind_history(stage, work.step)

    def save() -> None:
        spent = {} if ended is None else {_SPENT: time.monotonic() - started}
        save_checkpoint(folder.checkpoints, stage, work.step, work.state_dict() | spent)

    step_s = 0.0
    while work.step < steps:
        began = time.monotonic()
        reason = None if ended is None else ended(began - started + step_s / 2)
        if ended is not None and ranks.any(reason is not None):
            if ranks.writes:
                save()
                reason = reason or "another process ended it"
                _record_end(folder, stage, work.step, reason)
                progress(work.step, steps, reason)
            return
        before = work.step
        record = work.advance()
        step_s = time.monotonic() - began
        stops = ranks.any(interruption.requested())
        logged = reached(log_every, before, work.step, steps) or work.step in also_log
        if logged and ranks.writes:
            folder.append_history({"event": stage, "step": work.step, **record})
        progress(work.step, steps, describe(record))
        due = reached(checkpoint_every, before, work.step, steps)
        if (due or stops) and ranks.writes:
            save()
        if stops:
            # The launcher ends all processes when the first one leaves: not before all is saved.
            ranks.wait()
            interruption.stop()


def reached(every: int, before: int, step: int, steps: int) -> bool:
    """Whether work that went from one step to another, by one or more, is due for something.

    Args:
        every: it is due at the multiples of this number of steps, and at the end.
        before: steps that were done.
        step: steps that are done now.
        steps: all steps.
    """
    return step // every > before // every or step == steps


def time_is_over(minutes: float | None, spent_s: float, setting: str) -> str | None:
    """The reason to end a stage whose time limit, if any, is reached; None otherwise."""
    if minutes is None or spent_s < 60 * minutes:
        return None
    return f"its time is over, {setting} = {minutes:g}"


def _record_end(folder: RunFolder, stage: str, step: int, reason: str) -> None:
    """Write why a stage ended, unless a run that is resumed has done so before."""
    record = {"event": ENDED, "stage": stage, "step": step, "reason": reason}
    if record not in folder.read_history():
        folder.append_history(record)


def is_sparse_record(step: int, steps: int, log_every: int, before: int | None = None) -> bool:
    """Whether a step's record is one of the about `SPARSE_RECORDS` spread over a stage.

    Args:
        step: steps that are done.
        steps: all steps.
        log_every: steps between records.
        before: steps that were done at the record before; one less than `step` if None.
    """
    every = log_every * -(-steps // (log_every * SPARSE_RECORDS))
    return reached(every, step - 1 if before is None else before, step, steps)
