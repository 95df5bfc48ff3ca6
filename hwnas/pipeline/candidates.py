"""What a finished search leaves, and the choice among its candidates by measuring and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.budget.gate import measure_network
from hwnas.budget.limit import Limit
from hwnas.budget.selection import (
    BudgetError,
    FurtherBudgets,
    Measured,
    NetworkCosts,
    Proposer,
    Selection,
    UndecidedError,
)
from hwnas.checking.performance import counted_energy
from hwnas.data import Split
from hwnas.deploy.export import export_network
from hwnas.errors import InputError
from hwnas.evaluators.finalists import SuccessiveHalving, rung_sizes
from hwnas.latency_tables.measuring.memory import try_session
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.latency_tables.statistics import SESSION_SPREAD
from hwnas.pipeline.evaluation import augmented, short_recipe
from hwnas.pipeline.profile import example_feeds, preparation
from hwnas.pipeline.run import Run
from hwnas.runs import progress
from hwnas.spaces.networks import Network
from hwnas.strategies import SearchStrategy
from hwnas.supernet.search import SupernetSearch
from hwnas.training.evaluate import predictions
from hwnas.training.train import Training

Rank = Callable[[list[Architecture]], list[float]]
"""Scores of architectures by which candidates are compared."""
Selected = TypeVar("Selected")
ScoreBlocks = Callable[[list[Architecture]], np.ndarray]
WeightsOf = Callable[[Architecture], dict[str, Tensor]]


@dataclass(frozen=True)
class Searched:
    """What a finished search leaves.

    Attributes:
        strategy: knows what was best.
        rank: compares candidates.
        weights_of: the state of an architecture's network with weights that it inherits, its
            running statistics recalibrated; None where there are none to inherit.
        score_blocks: scores (architectures, blocks) on equal blocks of the samples that rank
            candidates; None without a supernet.
        loop: the search of a supernet; None without one.
    """

    strategy: SearchStrategy
    rank: Rank
    weights_of: WeightsOf | None = None
    score_blocks: ScoreBlocks | None = None
    loop: SupernetSearch | None = None


def chosen_candidate(run: Run, searched: Searched, training: Split, validation: Split) -> Measured:
    """Measure what the search found, and choose by its scores or by training the finalists.

    A share of the budget is kept free, unless no candidate keeps what is left.
    """
    with run.stage("measure") as advance:
        kept = with_reserve(
            run, run.target.limits(), lambda limits: _measured(run, searched, limits, advance)
        )
    if len(kept) == 1:
        return kept[0]
    best = _best_finalist(run, searched, [m.architecture for m in kept], training, validation)
    return next(m for m in kept if m.architecture == best)


def with_reserve(
    run: Run, limits: Sequence[Limit], select: Callable[[Sequence[Limit]], Selected]
) -> Selected:
    """What is selected within the budget without its reserve, or else within the whole of it.

    Args:
        run: see `reserve`.
        limits: the latency budgets, that of the run's device first.
        select: selects by limits; raises as `Selection.run`.
    """
    share, (first, *others) = reserve(run), limits
    try:
        return select([replace(first, budget_ms=(1 - share) * first.budget_ms), *others])
    except (InputError, BudgetError, UndecidedError):
        if not share:
            raise
        return select(limits)


def reserve(run: Run) -> float:
    """The share of the budget that is kept free for sessions that are slower than others."""
    return SESSION_SPREAD if run.target.device_measurements is None else 0.0


def _measured(
    run: Run, searched: Searched, limits: Sequence[Limit], advance: progress.Advance
) -> list[Measured]:
    """The best measured candidate, or the finalists; raises as `Selection.run`."""
    config = run.config.search
    selection = candidate_selection(
        run, searched.strategy, limits, searched.rank, advance, size_weight=config.size_weight
    )
    return selection.finalists(config.finalists) if config.finalists else [selection.run()]


def candidate_selection(
    run: Run,
    strategy: Proposer,
    limits: Sequence[Limit],
    rank: Rank,
    advance: progress.Advance,
    *,
    earlier: Sequence[Measured] = (),
    size_weight: float = 0.0,
) -> Selection:
    """What measures a run's candidates, best first, until one keeps the budgets.

    Args:
        run: has the settings, and the device that measures.
        strategy: proposes candidates.
        limits: the latency budgets.
        rank: compares candidates.
        advance: told what was measured.
        earlier: networks that were measured before, which correct the predictions.
        size_weight: weight of size beside the scores of `rank`.
    """
    config, budget = run.config.search, run.config.budget

    def measure(architecture: Architecture) -> NetworkCosts:
        costs = measure_architecture(run, architecture, limits[0].budget_ms)
        text = f"{costs.latency.value_ms:.3f} ms, budget {limits[0].budget_ms:.3f} ms"
        advance(len(selection.measured) + 1, config.max_measured, text)
        return costs

    selection = Selection(
        strategy,
        limits,
        rank,
        measure,
        run.folder,
        FurtherBudgets(budget.memory_mb, budget.energy_mj),
        candidates=config.candidates,
        max_measured=config.max_measured,
        size_weight=size_weight,
        earlier=earlier,
    )
    return selection


def _best_finalist(
    run: Run,
    searched: Searched,
    finalists: list[Architecture],
    training: Split,
    validation: Split,
) -> Architecture:
    """The finalist that wins successive halving, trained on one half and judged on the other."""
    config, task = run.config.search, run.problem.task
    batches = augmented(run, training, run.config.train)
    judged_on = ranking_samples(run, validation)
    recipe = short_recipe(run, config.finalist_epochs * len(rung_sizes(len(finalists))))

    def training_of(architecture: Architecture) -> Training:
        torch.manual_seed(run.seed("evaluation"))
        network = run.problem.space.network(architecture)
        if run.config.train.inherit and searched.weights_of is not None:
            network.load_state_dict(searched.weights_of(architecture))
        network.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Training(network, recipe, batches, run.seed("evaluation"), task.loss)

    def score_of(work: Training) -> float:
        return task.score(predictions(work.average, judged_on, task.dataset, run.device))

    halving = SuccessiveHalving(
        run.problem.space,
        finalists,
        training_of,
        score_of,
        rung_steps=config.finalist_epochs * batches.steps_per_epoch,
        checkpoint_every=run.config.train.checkpoint_every,
        size_prior=config.size_weight > 0,
    )
    with run.stage("finalists") as advance:
        return halving.run(run.folder, advance)


def measure_architecture(
    run: Run, architecture: Architecture, budget_ms: float | None
) -> NetworkCosts:
    """What an architecture's exported network takes, with random weights."""
    if run.target.device_measurements is not None:
        return NetworkCosts(run.target.stated_latency(architecture))
    torch.manual_seed(run.seed("measurement"))
    return measure_costs(run, run.problem.space.network(architecture).eval(), budget_ms)


def measure_costs(run: Run, network: Network, budget_ms: float | None) -> NetworkCosts:
    """What a network takes on this device once it is exported."""
    runtime, latency, budget = run.target.runtime, run.config.latency, run.config.budget
    shape, preprocessing = run.problem.input_shape, run.problem.preprocessing
    prepare = preparation(network, shape, runtime, latency.batch, preprocessing)
    found = measure_network(
        prepare,
        runtime,
        budget_ms=budget_ms,
        seconds=latency.measure_seconds,
        recorded=run.target.recorded_speed(),
    )
    memory_mb = energy_mj = None
    if budget.memory_mb is not None and isinstance(runtime, OnnxModelRuntime):
        model = export_network(network, shape, preprocessing=preprocessing).SerializeToString()
        inputs = example_feeds(latency.batch, shape, preprocessing)
        memory_mb = try_session(runtime, model, inputs).memory_mb
    if budget.energy_mj is not None:
        energy = counted_energy(prepare(), runtime, found)
        energy_mj = None if energy is None else energy.mj
    return NetworkCosts(found, memory_mb, energy_mj)


def write_architecture(run: Run, chosen: Measured) -> None:
    """Write `architecture.json`, which says what the search chose."""
    architecture = chosen.architecture
    params, macs = run.problem.space.params_and_macs(architecture)
    stated = architecture.to_json()
    document = {
        "schema": stated["schema"],
        "space": stated["space"],
        "space_options": run.problem.space.options.model_dump(),
        "choices": stated["choices"],
        "genotype": run.problem.space.to_genotype(architecture),
        "params": params,
        "macs": macs,
        "predicted_ms": chosen.predicted_ms,
    }
    run.folder.write_json(run.folder.architecture, document)


def ranking_samples(run: Run, validation: Split) -> Split:
    """The validation samples on which candidates are compared."""
    return validation.take(np.arange(min(run.config.search.ranking_images, len(validation))))
