"""Meta-training of a supernet over the tasks of several configurations, into a folder of its own.

The folder holds the configurations as `task-1.toml`, ..., `meta_training.json` with settings and
tasks, the history, checkpoints while it is not finished, and then `start.safetensors`, the weights
that `search.from` reads.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hwnas.config import Config, with_absolute_paths
from hwnas.durable import write_atomic
from hwnas.errors import HwnasError, InputError
from hwnas.nn.mixed_op import use_kernels
from hwnas.pipeline.compatibility import check_strategy, check_supernet
from hwnas.pipeline.problem import Problem, data_in_words, data_sizes
from hwnas.pipeline.run import Run
from hwnas.runs import progress
from hwnas.runs.checkpoints import remove_checkpoints
from hwnas.runs.loop import run_steps
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces import build_space
from hwnas.spaces.networks import Supernet
from hwnas.strategies import STRATEGIES
from hwnas.strategies.gradient import GradientStrategy
from hwnas.strategies.stochastic import GdasStrategy
from hwnas.supernet.reptile import (
    Reptile,
    TaskTraining,
    random_paths,
    shared_tensors,
    uniform_mixture,
)

logger = logging.getLogger("hwnas")
STAGE = "meta-train"
"""Names the checkpoints and the records of the history."""
LOG_EVERY, CHECKPOINT_EVERY = 5, 50
"""Rounds between records of the history, and between checkpoints."""


@dataclass(frozen=True)
class MetaSettings:
    """The settings of a meta-training.

    Attributes:
        rounds: in each, one task is trained.
        inner_steps: training steps in a round.
        rate: share of the way to a task's weights that the weights move in the first round.
    """

    rounds: int = 300
    inner_steps: int = 5
    rate: float = 1.0


def meta_train(
    configs: Sequence[tuple[str, Config]],
    out: Path,
    settings: MetaSettings,
    *,
    resume: bool = False,
    stage: progress.Stage = progress.silent,
) -> dict[str, Any]:
    """Train a start for the supernet of a space on the training samples of several tasks.

    Args:
        configs: for each task the name of its configuration in errors, and the configuration;
            with one supernet, and the device and the seed of the first one.
        out: the folder.
        settings: of the meta-training.
        resume: continue in a folder that holds an unfinished meta-training.
        stage: shows progress.

    Returns:
        The content of `meta_training.json`: `schema`, the settings, `tasks` (a line about each),
        `shared` and `own`, the numbers of tensors that are in the file and that are not.

    Raises:
        InputError: when the tasks do not fit each other, or the folder holds something else.
        Interrupted: after a signal, with a checkpoint written.
    """
    folder = RunFolder(out)
    tasks = [Run(with_absolute_paths(one), folder, stage, source=name) for name, one in configs]
    document = _document_path(folder)
    if document.exists() != resume:
        raise InputError(
            "no meta-training to resume" if resume else "this folder already holds a meta-training",
            where=str(out),
            mend="leave out --resume" if resume else "continue it with --resume",
        )
    folder.create()
    with folder.locked():
        try:
            work, described = _prepared(tasks, settings)
            if not resume:
                _write_beginning(folder, tasks, described)
            elif folder.read_json(document) != described or not _same_tasks(folder, tasks):
                raise InputError(
                    "the meta-training was started with other settings",
                    where=str(document),
                    mend="resume without changes, or choose another folder with --out",
                )
        except HwnasError:
            if folder.is_new:
                folder.remove()
            raise
        if start_path(folder).exists():
            logger.info("%s is already finished, nothing to do", out)
            return described
        with stage(STAGE) as advance:
            run_steps(
                work,
                folder,
                stage=STAGE,
                steps=settings.rounds,
                log_every=LOG_EVERY,
                checkpoint_every=CHECKPOINT_EVERY,
                progress=advance,
                describe=lambda record: f"task {record['task']}, loss {record['loss']:.3f}",
            )
        weights = {name: value.contiguous().cpu() for name, value in work.weights.items()}
        write_atomic(start_path(folder), save(weights))
        remove_checkpoints(folder.checkpoints, STAGE)
    return described


def start_path(folder: RunFolder) -> Path:
    """The file of the trained start."""
    return folder.path / "start.safetensors"


def _document_path(folder: RunFolder) -> Path:
    return folder.path / "meta_training.json"


def _task_path(folder: RunFolder, number: int) -> Path:
    return folder.path / f"task-{number}.toml"


def _same_tasks(folder: RunFolder, tasks: Sequence[Run]) -> bool:
    """Whether the folder was begun with the tasks' configurations."""
    paths = [_task_path(folder, number) for number in range(1, 1 + len(tasks))]
    folder.require(*paths)
    return all(
        path.read_text("utf-8") == task.config.to_toml()
        for path, task in zip(paths, tasks, strict=True)
    )


def _write_beginning(folder: RunFolder, tasks: Sequence[Run], described: dict[str, Any]) -> None:
    for number, task in enumerate(tasks, start=1):
        write_atomic(_task_path(folder, number), task.config.to_toml())
    folder.write_json(_document_path(folder), described)


def _prepared(tasks: Sequence[Run], settings: MetaSettings) -> tuple[Reptile, dict[str, Any]]:
    """The meta-training before its first round, and what is written about it."""
    for task in tasks:
        _require_like(tasks[0], task)
    first, device = tasks[0], tasks[0].device
    torch.manual_seed(first.seed("supernet"))
    supernets = [_supernet(task) for task in tasks]
    with torch.device("meta"):
        altered = _altered_supernet(first.problem)
    shared = shared_tensors(supernets, altered)
    space, seed = first.problem.proxy_space, first.seed("mixtures")
    propose = uniform_mixture(space) if _mixes(first) else random_paths(space, seed)
    trainings = [
        TaskTraining(
            supernet.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            task.config.search,
            task.batches(
                task.problem.dataset.train, task.config.search.batch_size, f"task {number}"
            ),
            propose,
            task.problem.task.loss,
        )
        for number, (task, supernet) in enumerate(zip(tasks, supernets, strict=True), start=1)
    ]
    work = Reptile(
        trainings,
        shared,
        space,
        rounds=settings.rounds,
        inner_steps=settings.inner_steps,
        rate=settings.rate,
        seed=first.seed("order of tasks"),
    )
    described = {
        "schema": 1,
        **asdict(settings),
        "space": space.name,
        "tasks": [data_in_words(task.problem.dataset) for task in tasks],
        "shared": len(shared),
        "own": len(supernets[0].state_dict()) - len(shared),
    }
    return work, described


def _mixes(task: Run) -> bool:
    """Whether the strategy trains mixtures of all options, and not single architectures."""
    strategy = STRATEGIES[task.config.search.strategy]
    return issubclass(strategy, GradientStrategy) and not issubclass(strategy, GdasStrategy)


def _supernet(task: Run) -> Supernet:
    """A new supernet of a task, after its settings were checked."""
    search = task.config.search
    check_strategy(search, f"{task.where}: search")
    supernet = task.problem.supernet()
    check_supernet(task.config, supernet, task.problem.task, task.where)
    use_kernels(supernet, search.kernels, search.recompute, search.activation_storage)
    return supernet


def _altered_supernet(problem: Problem) -> Supernet:
    """The supernet for data with one class more, and one word more where there are words."""
    sizes = data_sizes(problem.task)
    changed = {"classes": sizes["classes"] + 1}
    if sizes["vocabulary"] is not None:
        changed["vocabulary"] = sizes["vocabulary"] + 1
    options = problem.proxy_space.options.model_dump() | changed
    space = build_space(problem.space.name, options, f"{problem.where}: space")
    search = problem.config.search
    return space.supernet(search.partial_channels or STRATEGIES[search.strategy].partial_channels)


def _require_like(first: Run, other: Run) -> None:
    """Refuse a task whose supernet is another one than that of the first task."""
    if other.config.search.evaluator != "supernet":
        raise InputError(
            "only a supernet has weights to begin with",
            where=f"{other.where}: search.evaluator",
            expected="supernet",
            actual=other.config.search.evaluator,
        )
    stated = (
        ("space", first.config.space, other.config.space),
        ("search.proxy", first.config.search.proxy, other.config.search.proxy),
        (
            "search.partial_channels",
            first.config.search.partial_channels,
            other.config.search.partial_channels,
        ),
        ("search.strategy", first.config.search.strategy, other.config.search.strategy),
    )
    for key, expected, actual in stated:
        if expected != actual:
            raise InputError(
                "the tasks of a meta-training have one supernet",
                where=f"{other.where}: {key}",
                expected=f"that of {first.where}, {expected}",
                actual=actual,
            )
