"""Samples that the run of a user's own model keeps, so that its model can be checked without it.

Model and data of such a run are given in Python. What `hwnas check` needs of them later is a part
of the test samples, as the exported model reads them.
"""

from __future__ import annotations

import numpy as np

from hwnas.checking.inputs.array_samples import LABELS
from hwnas.checking.inputs.feeds import FeedMaker, feeds_for
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.durable import write_atomic
from hwnas.inspection.process import Inspection
from hwnas.pipeline.run import Run

MOST_BYTES = 2**25
"""Size of the kept samples at most."""
NOTE = (
    "the model's Python code is not at hand: the exported model was compared with itself before "
    "optimisation and on other runtimes, not with the network in PyTorch"
)


def keep_samples(run: Run, feeds: FeedMaker) -> None:
    """Write the first test samples, and their classes where the score is the share of right ones.

    Args:
        run: of a user's own model.
        feeds: of the run's exported model.
    """
    import io

    if feeds.samples is None or run.folder.samples.exists():
        return
    size = sum(array.nbytes for array in feeds.samples.take(np.arange(1)).values())
    chosen = np.arange(min(feeds.samples.count, max(1, MOST_BYTES // size)))
    arrays = dict(feeds.samples.take(chosen))
    if run.problem.task.metric == "accuracy" and feeds.samples.targets is not None:
        arrays[LABELS] = feeds.samples.targets[chosen]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(run.folder.samples, buffer.getvalue())


def kept_feeds(run: Run, model: Inspection) -> FeedMaker:
    """The kept samples as a model's inputs, or random values if there are none."""
    kept = run.folder.samples if run.folder.samples.exists() else None
    return feeds_for(model, StatedSizes(), kept, run.config.latency.batch)
