"""The search stage: from a latency table to architectures that keep their budgets."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.budget.decode import Decoder, params_and_macs_ranges
from hwnas.budget.gate import measure_network
from hwnas.budget.limit import Limit
from hwnas.budget.selection import (
    BudgetError,
    FurtherBudgets,
    Measured,
    NetworkCosts,
    Selection,
    UndecidedError,
)
from hwnas.checking.performance import counted_energy
from hwnas.config import SearchConfig
from hwnas.data import Split, evaluation_batches, split_train
from hwnas.deploy.export import export_network
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.evaluators.accuracy_table import TableDecoder
from hwnas.evaluators.finalists import STAGE as FINALISTS
from hwnas.evaluators.finalists import SuccessiveHalving, rung_sizes
from hwnas.evaluators.loop import EvaluatedSearch
from hwnas.evaluators.shared import Ledger, SharedSearch
from hwnas.evaluators.short_training import ShortTraining
from hwnas.latency_tables.measuring.memory import try_session
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.latency_tables.statistics import SESSION_SPREAD
from hwnas.nn.mixed_op import release_memory, use_kernels
from hwnas.pipeline.evaluation import EVALUATORS, augmented, short_recipe, zero_cost
from hwnas.pipeline.knowledge import drawn_experience
from hwnas.pipeline.profile import example_feeds, preparation
from hwnas.pipeline.run import Run
from hwnas.pipeline.transfer import SEARCH_FROM, start_from
from hwnas.runs import interruption, progress
from hwnas.runs.checkpoints import load_checkpoint, remove_checkpoints
from hwnas.spaces.networks import Network
from hwnas.spaces.sharing import SharedSupernet
from hwnas.strategies import SearchStrategy, build_strategy
from hwnas.strategies.sampled import SampledStrategy
from hwnas.supernet.evaluate import rank_architectures, recalibrate, score_blocks
from hwnas.supernet.guard import Guard
from hwnas.supernet.search import SupernetSearch
from hwnas.training.evaluate import predictions
from hwnas.training.train import Training

logger = logging.getLogger("hwnas")

BLOCKS = 10
"""Blocks of validation samples, about, by which the error of a score is estimated."""

Rank = Callable[[list[Architecture]], list[float]]
"""Scores of architectures by which candidates are compared."""
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


def search_architecture(run: Run) -> Architecture:
    """Search, then measure the best candidates until one keeps its budget, or train the finalists.

    Writes `architecture.json`, in the folders of a family's members too, and before it
    `inherited.safetensors` where training begins with the supernet's weights.

    Raises:
        InputError: when no architecture can keep the budget, before any training.
        BudgetError: when no candidate kept it.
        Interrupted: after a signal, with everything saved.
    """
    members = [run, *run.family]
    for member in members:
        record_budget(member)
    training, validation = split_train(run.problem.dataset.train, 0.5, run.seed("halves"))
    searched = _search_of(run)(run, training, validation)
    for member in members:
        if not member.folder.architecture.exists():
            chosen = _select(member, searched, training, validation)
            if run.config.train.inherit and searched.weights_of is not None:
                state = searched.weights_of(chosen.architecture)
                write_atomic(member.folder.inherited, save(state))
            write_architecture(member, chosen)
            remove_checkpoints(member.folder.checkpoints, FINALISTS)
    release_memory()
    return run.architecture()


def finished_search(run: Run) -> Searched:
    """What the run's search left, from its last checkpoint; nothing is written.

    Raises:
        InputError: when there is no checkpoint of the end of a search.
    """
    found = load_checkpoint(run.folder.checkpoints, "search")
    is_stored = run.config.search.evaluator != "size"
    if is_stored and (found is None or found[0] < run.config.search.steps):
        raise InputError(
            "no checkpoint of a finished search",
            where=str(run.folder.checkpoints),
            mend="`hwnas run --resume` ends the search",
        )
    quiet = replace(run, stage=progress.silent, given=run.problem)
    training, validation = split_train(run.problem.dataset.train, 0.5, run.seed("halves"))
    return _search_of(run)(quiet, training, validation)


def _search_of(run: Run) -> Callable[[Run, Split, Split], Searched]:
    """The function that searches with the run's evaluator."""
    known = {"supernet": search_supernet, "size": _decode_largest}
    return known.get(run.config.search.evaluator, _search_evaluated)


def assist_search(run: Run) -> None:
    """Do this process's part of a supernet search that another one leads, and write nothing."""
    training, validation = split_train(run.problem.dataset.train, 0.5, run.seed("halves"))
    search_supernet(run, training, validation)


def record_budget(run: Run) -> None:
    """Write the budget and the device's range to the history; InputError for one out of reach."""
    budget_ms = run.target.budget_ms()
    # Several devices' budgets may exclude each other, and a confidence may leave nothing.
    Decoder(run.target.limits()).best(np.zeros(run.problem.space.mask.shape))
    if not any(record["event"] == "budget" for record in run.folder.read_history()):
        fastest_ms, slowest_ms = run.target.latency_range_ms
        record = {"budget_ms": budget_ms, "fastest_ms": fastest_ms, "slowest_ms": slowest_ms}
        run.folder.append_history({"event": "budget", **record})


def _strategy(run: Run, decoder: Decoder | TableDecoder) -> SearchStrategy:
    config = run.config.search
    settings = config.settings.get(config.strategy, {})
    # Searches that share a storage each draw their own.
    own = f" {run.folder.path.name}" if config.storage else ""
    seed = run.seed(f"strategy{own}")
    strategy = build_strategy(config.strategy, run.problem.space, seed, settings, decoder)
    experience = drawn_experience(run)
    if experience:
        strategy.begin_from(experience)
    return strategy


def _guard(config: SearchConfig, limits: list[Limit]) -> Guard | None:
    if config.max_skips is None and config.max_growth is None:
        return None
    most = math.inf if config.max_skips is None else config.max_skips
    return Guard(Decoder([Limit(limits[0].cost)]), most, config.max_growth)


def search_supernet(run: Run, training: Split, validation: Split) -> Searched:
    """Train the supernet to the end, from where an earlier search stopped.

    Args:
        run: has begun, and has a latency table.
        training: the samples for the weights.
        validation: the samples for the architecture.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
    """
    config = run.config.search
    torch.manual_seed(run.seed("supernet"))
    supernet = run.problem.supernet().to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    use_kernels(supernet, config.kernels, config.recompute)
    if config.start is not None and load_checkpoint(run.folder.checkpoints, "search") is None:
        start_from(run, supernet, Path(config.start), SEARCH_FROM)
    limits = run.target.limits()
    strategy = _strategy(run, Decoder(limits))
    _warm_start(run, strategy, training)
    loop = SupernetSearch(
        supernet,
        strategy,
        limits,
        config,
        run.batches(training, config.batch_size, "search training"),
        run.batches(validation, config.batch_size, "search validation"),
        guard=_guard(config, limits),
        ranks=run.ranks,
        loss_of=run.problem.task.loss,
    )
    with run.stage("search") as advance:
        loop.run(run.folder, advance)
    batches = run.batches(training, config.batch_size, "recalibration")
    recalibration = [batches.batch(i) for i in range(config.recalibration_batches)]
    ranked = _ranking_samples(run, validation)
    validation_batches = list(evaluation_batches(ranked, run.problem.dataset, 250, run.device))

    def rank(architectures: list[Architecture]) -> list[float]:
        return rank_architectures(
            run.problem.space,
            supernet,
            architectures,
            recalibration=recalibration,
            validation=validation_batches,
            score=run.problem.task.score,
        )

    def weights_of(architecture: Architecture) -> dict[str, Tensor]:
        assert isinstance(supernet, SharedSupernet)
        recalibrate(supernet, run.problem.space.one_hot(architecture).to(run.device), recalibration)
        state = supernet.weights_of(architecture)
        return {name: value.contiguous().cpu() for name, value in state.items()}

    def by_block(architectures: list[Architecture]) -> np.ndarray:
        return score_blocks(
            run.problem.space,
            supernet,
            architectures,
            recalibration=recalibration,
            validation=validation_batches,
            score=run.problem.task.score,
            size=min(max(1, len(ranked) // BLOCKS), len(validation_batches[0][0])),
        )

    return Searched(loop.strategy, rank, weights_of, by_block, loop)


def _search_evaluated(run: Run, training: Split, validation: Split) -> Searched:
    """Judge what the strategy proposes, one after the other, alone or together with others."""
    search, limits = run.config.search, run.target.limits()
    table = search.evaluator == "table"
    evaluator = EVALUATORS[search.evaluator](run, training, validation)
    strategy = _strategy(run, _within_table(run, limits) if table else Decoder(limits))
    _warm_start(run, strategy, training)
    recipes = evaluator.recipes if isinstance(evaluator, ShortTraining) else None
    loop = EvaluatedSearch(strategy, evaluator, limits, search, recipes=recipes)
    if search.storage is not None:
        ledger = Ledger(run.open_study(), run.problem.space)
        loop = SharedSearch(strategy, evaluator, limits, search, ledger=ledger)
    with run.stage("search") as advance:
        loop.run(run.folder, advance)
    if recipes is not None:
        run.folder.write_json(run.folder.recipe, {"schema": 1, "recipe": recipes.best})
    return Searched(loop.strategy, loop.rank)


def _decode_largest(run: Run, training: Split, validation: Split) -> Searched:
    """Evaluate nothing: candidates are decoded, and compared by their size."""
    space = run.problem.space
    most = np.array([largest for _, largest in params_and_macs_ranges(space)])

    def rank(architectures: list[Architecture]) -> list[float]:
        """Geometric means of parameters and MACs, each as a share of the largest."""
        counts = [np.array(space.params_and_macs(a)) for a in architectures]
        return [float(np.sqrt(np.prod(count / most))) for count in counts]

    return Searched(_strategy(run, Decoder(run.target.limits())), rank)


def _ranking_samples(run: Run, validation: Split) -> Split:
    """The validation samples on which candidates are compared."""
    return validation.take(np.arange(min(run.config.search.ranking_images, len(validation))))


def _within_table(run: Run, limits: list[Limit]) -> TableDecoder:
    """What of the table of accuracies keeps the budgets."""
    decoder = Decoder(limits)
    kept = [
        architecture
        for architecture in run.problem.accuracy_table
        if decoder.is_feasible(architecture)
    ]
    if not kept:
        raise InputError(
            "no architecture of the table keeps the budget",
            where=str(run.config.search.accuracy_table),
            expected=f"at most {limits[0].budget_ms:.4g} ms",
        )
    return TableDecoder(run.problem.space, kept)


def _warm_start(run: Run, strategy: SearchStrategy, training: Split) -> None:
    """Suggest the best of random architectures by a zero-cost score, unless a search goes on."""
    search = run.config.search
    goes_on = load_checkpoint(run.folder.checkpoints, "search") is not None
    if not search.warm_start or goes_on or not isinstance(strategy, SampledStrategy):
        return
    score = zero_cost(run, training)
    rng = np.random.default_rng(run.seed("warm start"))
    scores: dict[Architecture, float] = {}
    with run.stage("warm start") as advance:
        for drawn in range(search.warm_start):
            interruption.stop_if_requested()
            architecture = strategy.draw_feasible(rng, run.problem.space.sample)
            scores[architecture] = score(architecture)
            advance(drawn + 1, search.warm_start, search.zero_cost)
    ordered = sorted(scores, key=lambda architecture: -scores[architecture])
    strategy.suggested = ordered[: search.warm_start_kept]


def _select(run: Run, searched: Searched, training: Split, validation: Split) -> Measured:
    """Measure what the search found, and choose by its scores or by training the finalists.

    A share of the budget is kept free, unless no candidate keeps what is left.
    """
    limits, reserve = run.target.limits(), _reserve(run)
    reserved = replace(limits[0], budget_ms=(1 - reserve) * limits[0].budget_ms)
    with run.stage("measure") as advance:
        try:
            kept = _measured(run, searched, [reserved, *limits[1:]], advance)
        except (InputError, BudgetError, UndecidedError):
            if not reserve:
                raise
            kept = _measured(run, searched, limits, advance)
    if len(kept) == 1:
        return kept[0]
    best = _best_finalist(run, searched, [m.architecture for m in kept], training, validation)
    return next(m for m in kept if m.architecture == best)


def _reserve(run: Run) -> float:
    """The share of the budget that is kept free for sessions that are slower than others."""
    return SESSION_SPREAD if run.target.device_measurements is None else 0.0


def _measured(
    run: Run, searched: Searched, limits: Sequence[Limit], advance: progress.Advance
) -> list[Measured]:
    """The best measured candidate, or the finalists.

    Raises:
        InputError: no architecture is predicted to keep the budget.
        BudgetError: none of the measured candidates keeps it.
        UndecidedError: the measurements are too noisy to tell.
    """
    config, budget_ms = run.config.search, run.target.budget_ms()

    def measure(architecture: Architecture) -> NetworkCosts:
        costs = measure_architecture(run, architecture, limits[0].budget_ms)
        text = f"{costs.latency.value_ms:.3f} ms, budget {budget_ms:.3f} ms"
        advance(len(selection.measured) + 1, config.max_measured, text)
        return costs

    selection = Selection(
        searched.strategy,
        limits,
        searched.rank,
        measure,
        run.folder,
        FurtherBudgets(run.config.budget.memory_mb, run.config.budget.energy_mj),
        candidates=config.candidates,
        max_measured=config.max_measured,
        size_weight=config.size_weight,
    )
    return selection.finalists(config.finalists) if config.finalists else [selection.run()]


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
    judged_on = _ranking_samples(run, validation)
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
