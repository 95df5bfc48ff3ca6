"""The search stage: from a latency table to architectures that keep their budgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.budget.decode import Decoder, params_and_macs_ranges
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.data import Split, evaluation_batches, split_train
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.evaluators.accuracy_table import TableDecoder
from hwnas.evaluators.finalists import STAGE as FINALISTS
from hwnas.evaluators.loop import EvaluatedSearch
from hwnas.evaluators.shared import Ledger, SharedSearch
from hwnas.evaluators.short_training import ShortTraining
from hwnas.nn.mixed_op import release_memory, use_kernels
from hwnas.pipeline.candidates import (
    Searched,
    chosen_candidate,
    ranking_samples,
    write_architecture,
)
from hwnas.pipeline.clients import federated_clients
from hwnas.pipeline.evaluation import EVALUATORS, zero_cost
from hwnas.pipeline.knowledge import drawn_experience
from hwnas.pipeline.run import Run
from hwnas.pipeline.transfer import SEARCH_FROM, start_from
from hwnas.runs import interruption, progress
from hwnas.runs.checkpoints import load_checkpoint, remove_checkpoints
from hwnas.spaces.networks import Supernet
from hwnas.spaces.sharing import SharedSupernet
from hwnas.strategies import SearchStrategy, build_strategy
from hwnas.strategies.sampled import SampledStrategy
from hwnas.supernet.evaluate import rank_architectures, recalibrate, score_blocks
from hwnas.supernet.federated import FederatedSearch
from hwnas.supernet.guard import Guard
from hwnas.supernet.search import SupernetSearch

BLOCKS = 10
"""Blocks of validation samples, about, by which the error of a score is estimated."""


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
            chosen = chosen_candidate(member, searched, training, validation)
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
    use_kernels(supernet, config.kernels, config.recompute, config.activation_storage)
    if config.start is not None and load_checkpoint(run.folder.checkpoints, "search") is None:
        start_from(run, supernet, Path(config.start), SEARCH_FROM)
    strategy = _strategy(run, Decoder(run.target.limits()))
    _warm_start(run, strategy, training)
    loop = _supernet_loop(run, supernet, strategy, training, validation)
    with run.stage("search") as advance:
        loop.run(run.folder, advance)
    batches = run.batches(training, config.batch_size, "recalibration")
    recalibration = [batches.batch(i) for i in range(config.recalibration_batches)]
    ranked = ranking_samples(run, validation)
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


def _supernet_loop(
    run: Run, supernet: Supernet, strategy: SearchStrategy, training: Split, validation: Split
) -> SupernetSearch:
    """The search on all samples, or by clients that have a part of them each."""
    config, limits = run.config.search, run.target.limits()
    if config.clients > 1:
        if run.ranks.size > 1:
            raise InputError(
                "a federated search runs in one process",
                where="search.clients",
                expected=1,
                actual=config.clients,
                mend="start it without torchrun",
            )
        clients = federated_clients(run, training, validation)
        return FederatedSearch(
            supernet,
            strategy,
            limits,
            config,
            clients[0].training,
            clients[0].validation,
            loss_of=run.problem.task.loss,
            clients=clients,
            local_steps=config.local_steps,
        )
    return SupernetSearch(
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
