"""What judges single architectures in a run's search: trainings, proxies, a table, a function."""

from __future__ import annotations

import logging
from collections.abc import Callable

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig
from hwnas.data import Augmentation, Batches, Split
from hwnas.evaluators.accuracy_table import TabledAccuracy
from hwnas.evaluators.function import OwnFunction
from hwnas.evaluators.loop import Evaluator
from hwnas.evaluators.recipes import Recipes
from hwnas.evaluators.short_training import ShortTraining
from hwnas.evaluators.zero_cost import ZeroCost
from hwnas.pipeline.own_problem import OwnProblem
from hwnas.pipeline.run import Run

logger = logging.getLogger("hwnas")


def short_recipe(run: Run, epochs: int) -> TrainConfig:
    """The run's training for fewer epochs, without what helps in long ones only."""
    plain = {"epochs": epochs, "auxiliary_weight": 0.0, "drop_path": 0.0}
    return run.config.train.model_copy(update=plain)


def augmented(run: Run, training: Split, train: TrainConfig) -> Batches:
    """Training batches as in a training with these settings."""
    return run.batches(training, train.batch_size, "evaluation", Augmentation.of(train))


def short_training(run: Run, training: Split, validation: Split) -> Evaluator:
    """What trains networks for `search.evaluation_epochs` and scores them on held-out samples."""
    search = run.config.search
    recipes = Recipes(search.recipe, run.seed("recipe"), search.recipe_sampler)
    return ShortTraining(
        run.problem.proxy_space,
        short_recipe(run, search.evaluation_epochs),
        augmented(run, training, run.config.train),
        validation,
        run.problem.task,
        run.seed("evaluation"),
        run.device,
        recipes=recipes if search.recipe else None,
        batches_of=lambda train: augmented(run, training, train),
    )


def zero_cost(run: Run, training: Split, validation: Split | None = None) -> Evaluator:
    """What scores networks by a proxy that needs no training, on one batch."""
    search = run.config.search
    inputs, targets = run.batches(training, search.batch_size, "evaluation").batch(0)
    seed, loss_of = run.seed("evaluation"), run.problem.task.loss
    return ZeroCost(run.problem.proxy_space, search.zero_cost, inputs, targets, seed, loss_of)


def _tabled(run: Run, training: Split, validation: Split) -> Evaluator:
    where = str(run.config.search.accuracy_table)
    return TabledAccuracy(run.problem.space, run.problem.accuracy_table, where)


def _own_function(run: Run, training: Split, validation: Split) -> Evaluator:
    problem = run.problem
    assert problem.evaluate is not None and isinstance(problem, OwnProblem)

    def on_failure(architecture: Architecture, reason: str) -> None:
        genotype = problem.space.to_genotype(architecture)
        run.folder.append_history({"event": "failed", "architecture": genotype, "reason": reason})
        logger.warning("%s; this candidate is scored as the worst one so far", reason)

    known = dict(problem.first_score)
    space = problem.space
    return OwnFunction(space, space.module, problem.evaluate, on_failure, known)


EVALUATORS: dict[str, Callable[[Run, Split, Split], Evaluator]] = {
    "training": short_training,
    "zero-cost": zero_cost,
    "table": _tabled,
    "function": _own_function,
}
