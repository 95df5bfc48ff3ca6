"""The first load and runs of a model, in a subprocess with limits on memory and time."""

from __future__ import annotations

from dataclasses import replace

from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.config import CheckConfig
from hwnas.inspection.process import Inspection
from hwnas.latency_tables.measuring.limits import session_limit_mb
from hwnas.latency_tables.measuring.memory import Trial, TrialBatches, try_session
from hwnas.latency_tables.runtimes import OnnxModelRuntime

BATCHES = (1, 7, 64)
"""Batch sizes at which a model with an open batch dimension has to run."""
FEWEST_BATCHES = (1, 3)
"""The batch sizes used instead when all larger ones take too long."""
THROUGHPUT_BATCHES = (1, 8, 32)
"""Batch sizes at which the throughput is measured."""
SCORED_BATCH = 250
"""Batch size at which samples with targets are scored."""
BATCH_SECONDS = 2.0
"""A batch size that is expected to take longer than this is not tried."""


def probe(
    model: Inspection, runtime: OnnxModelRuntime, feeds: FeedMaker, limits: CheckConfig
) -> Trial:
    """Load a model and run it in a subprocess with limits, at every batch size used later.

    The model is untrusted, so this comes before it is loaded in the current process.

    Raises:
        RunError: when the runtime loads the model, and cannot run it.
        InputError: when the file has changed since the inspection, the runtime refuses the model,
            or it exceeds the limits of a session.
    """
    model.require_unchanged()
    sizes = {*BATCHES, *FEWEST_BATCHES, *THROUGHPUT_BATCHES}
    if feeds.samples is not None and feeds.samples.targets is not None:
        sizes.add(SCORED_BATCH)
    batches = TrialBatches(
        sorted(filter(feeds.is_affordable, sizes)) if feeds.is_dynamic else (),
        replace(feeds, samples=None).repeated,
        feeds.batch,
        BATCH_SECONDS,
        max(FEWEST_BATCHES),
    )
    return try_session(
        runtime,
        model.path,
        feeds.real(feeds.batch, 0),
        batches,
        limit_mb=session_limit_mb(limits.max_session_mb),
        limit_s=limits.max_session_seconds,
    )
