"""The loop of a long stage: steps, history, checkpoints, signals."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

from hwnas.runs import interruption
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.runs.run_folder import RunFolder

SPARSE_RECORDS = 100
"""About how many records of a stage hold what is too large for each."""


class Resumable(Protocol):
    """Work that is done step by step and can be stored between any two."""

    step: int

    def advance(self) -> dict[str, Any]:
        """Do one step and count it; returns what the history says of it, `loss` among it."""

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

    Raises:
        Interrupted: after a signal, with a checkpoint written.
    """
    resumed = load_checkpoint(folder.checkpoints, stage)
    if resumed is not None:
        work.load_state_dict(resumed[1])
    if ranks.writes:
        folder.rewind_history(stage, work.step)
    while work.step < steps:
        record = work.advance()
        stops = ranks.any(interruption.requested())
        logged = work.step % log_every == 0 or work.step == steps or work.step in also_log
        if logged and ranks.writes:
            folder.append_history({"event": stage, "step": work.step, **record})
        progress(work.step, steps, describe(record))
        due = work.step % checkpoint_every == 0 or work.step == steps
        if (due or stops) and ranks.writes:
            save_checkpoint(folder.checkpoints, stage, work.step, work.state_dict())
        if stops:
            # The launcher ends all processes when the first one leaves: not before all is saved.
            ranks.wait()
            interruption.stop()


def is_sparse_record(step: int, steps: int, log_every: int) -> bool:
    """Whether a step's record is one of the about `SPARSE_RECORDS` spread over a stage."""
    every = log_every * -(-steps // (log_every * SPARSE_RECORDS))
    return step % every == 0 or step == steps
